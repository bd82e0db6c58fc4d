"""Restless bandits: simulation on counts, mean field, indices."""
