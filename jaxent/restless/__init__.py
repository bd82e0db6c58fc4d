"""Restless bandits: simulation on counts, values, mean field."""

from .activation import action_probabilities as action_probabilities
from .activation import activate as activate
from .activation import by_action as by_action
from .mean_field import MeanField as MeanField
from .mean_field import mean_field as mean_field
from .mean_field import mean_field_step as mean_field_step
from .monte_carlo import MonteCarloValue as MonteCarloValue
from .monte_carlo import discounted_returns as discounted_returns
from .monte_carlo import monte_carlo_q as monte_carlo_q
from .simulate import CountsTrajectory as CountsTrajectory
from .simulate import pair_flow as pair_flow
from .simulate import simulate_counts as simulate_counts
