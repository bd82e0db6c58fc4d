"""Restless bandits: simulation on counts, exact chains, mean field, indices."""

from .activation import action_probabilities as action_probabilities
from .activation import activate as activate
from .activation import by_action as by_action
