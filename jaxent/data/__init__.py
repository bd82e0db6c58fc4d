"""From logs and environments: trajectories, estimates, local learning."""
