"""The models: what the agents are, and how they may act."""
