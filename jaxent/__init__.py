"""Multi-agent Markov entanglement in JAX."""

from .instances import CIRCULANT_PRIORITY as CIRCULANT_PRIORITY
from .instances import circulant_bandit as circulant_bandit
from .instances import circulant_start as circulant_start
from .mdp import RestlessBandit as RestlessBandit
from .mdp import check_bandit as check_bandit
