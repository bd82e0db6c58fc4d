"""Multi-agent Markov entanglement in JAX."""

from .estimators import EntanglementEstimate as EntanglementEstimate
from .estimators import LocalQ as LocalQ
from .estimators import estimate_entanglement as estimate_entanglement
from .estimators import lstd_local_q as lstd_local_q
from .estimators import td_local_q as td_local_q
from .instances import CIRCULANT_PRIORITY as CIRCULANT_PRIORITY
from .instances import circulant_bandit as circulant_bandit
from .instances import circulant_start as circulant_start
from .mdp import RestlessBandit as RestlessBandit
from .mdp import check_bandit as check_bandit
from .restless import CountsTrajectory as CountsTrajectory
from .restless import MeanField as MeanField
from .restless import MonteCarloValue as MonteCarloValue
from .restless import attractor_gap as attractor_gap
from .restless import discounted_returns as discounted_returns
from .restless import mean_field as mean_field
from .restless import mean_field_step as mean_field_step
from .restless import monte_carlo_q as monte_carlo_q
from .restless import pair_flow as pair_flow
from .restless import simulate_counts as simulate_counts

__version__ = "0.1.0"
