"""Local values from data by name: LSTD in tables and in features of observations, networks,
TD(lambda), Monte Carlo, split rewards, random features."""

from .linear_values import LinearQ as LinearQ
from .linear_values import joint_features as joint_features
from .linear_values import linear_local_q as linear_local_q
from .local_learning import LocalFlow as LocalFlow
from .local_learning import LocalQ as LocalQ
from .local_learning import local_flow as local_flow
from .local_learning import lstd_local_q as lstd_local_q
from .local_learning import network_local_q as network_local_q
from .observed import own_features as own_features
from .random_features import fourier_features as fourier_features
from .reward_split import RewardFit as RewardFit
from .reward_split import fit_local_rewards as fit_local_rewards
from .reward_split import with_rewards as with_rewards
from .td_learning import LocalReturns as LocalReturns
from .td_learning import monte_carlo_local_q as monte_carlo_local_q
from .td_learning import td_local_q as td_local_q
