"""Multi-agent Markov entanglement in JAX.

Everything public is here by name. What belongs together and is asked for more rarely is also a
group: `agents` (bandits agent by agent), `bandits` (named ones), `bounds`, `distances`, `examples`
(the paper's), `learning` (local values from logs) and `lemmas` (the proof of Theorem 7).
"""

import warnings
from importlib import import_module
from typing import Any

from .auditing.report import Audit as Audit
from .auditing.report import audit as audit
from .chains.pair_chain import PairChain as PairChain
from .chains.pair_chain import pair_chain as pair_chain
from .chains.stationary import LawSolution as LawSolution
from .chains.stationary import solve_law as solve_law
from .chains.stationary import stationary_distribution as stationary_distribution
from .chains.subchain import neighborhood as neighborhood
from .chains.views import local_transition as local_transition
from .chains.views import marginal as marginal
from .chains.views import view_transition as view_transition
from .chains.views import with_views as with_views
from .data import learning as learning
from .data.environments import from_gymnax as from_gymnax
from .data.environments import from_jaxmarl as from_jaxmarl
from .data.estimators import EntanglementEstimate as EntanglementEstimate
from .data.estimators import EntanglementInterval as EntanglementInterval
from .data.estimators import by_local as by_local
from .data.estimators import entanglement_interval as entanglement_interval
from .data.estimators import estimate_entanglement as estimate_entanglement
from .data.local_learning import LocalFlow as LocalFlow
from .data.local_learning import LocalQ as LocalQ
from .data.local_learning import local_flow as local_flow
from .data.local_learning import lstd_local_q as lstd_local_q
from .data.local_learning import network_local_q as network_local_q
from .data.log_entanglement import LogsEstimate as LogsEstimate
from .data.log_entanglement import entanglement_from_logs as entanglement_from_logs
from .data.log_entanglement import pair_counts as pair_counts
from .data.log_entanglement import state_counts as state_counts
from .data.reward_split import RewardFit as RewardFit
from .data.reward_split import fit_local_rewards as fit_local_rewards
from .data.reward_split import with_rewards as with_rewards
from .data.tables import Log as Log
from .data.tables import read_log as read_log
from .data.tables import to_frame as to_frame
from .data.td_learning import LocalReturns as LocalReturns
from .data.td_learning import monte_carlo_local_q as monte_carlo_local_q
from .data.td_learning import td_local_q as td_local_q
from .data.trajectory import Labels as Labels
from .data.trajectory import Trajectory as Trajectory
from .data.trajectory import chain_trajectory as chain_trajectory
from .measures import distances as distances
from .measures.distances import SignNorm as SignNorm
from .measures.distances import atv_distance as atv_distance
from .measures.distances import mu_atv_distance as mu_atv_distance
from .measures.distances import mu_inf_norm as mu_inf_norm
from .measures.distances import mu_norm as mu_norm
from .measures.distances import mu_tv_distance as mu_tv_distance
from .measures.distances import tv_distance as tv_distance
from .measures.entanglement import SeparableChain as SeparableChain
from .measures.entanglement import entanglement_atv as entanglement_atv
from .measures.entanglement import entanglement_mu_atv as entanglement_mu_atv
from .measures.entanglement import entanglement_mu_atv_upper as entanglement_mu_atv_upper
from .measures.entanglement import entanglement_mu_tv as entanglement_mu_tv
from .measures.entanglement import entanglement_tv as entanglement_tv
from .measures.entanglement import policy_entanglement as policy_entanglement
from .measures.projected_descent import Descent as Descent
from .measures.projected_descent import SignedProduct as SignedProduct
from .measures.projected_descent import entanglement_tv_signed as entanglement_tv_signed
from .measures.projected_descent import minimize_entanglement as minimize_entanglement
from .measures.row_measures import Entanglement as Entanglement
from .measures.separability import ConvexSeparation as ConvexSeparation
from .measures.separability import SeparableDecomposition as SeparableDecomposition
from .measures.separability import Witness as Witness
from .measures.separability import convex_separation as convex_separation
from .measures.separability import is_agentwise_separable as is_agentwise_separable
from .measures.separability import is_convexly_separable as is_convexly_separable
from .measures.separability import is_separable as is_separable
from .measures.separability import separability_witness as separability_witness
from .measures.separability import separable_decomposition as separable_decomposition
from .models import examples as examples
from .models import named_bandits as bandits
from .models.contracts import Model as Model
from .models.contracts import check_mdp as check_mdp
from .models.contracts import check_policy as check_policy
from .models.cooperative import CooperativeGame as CooperativeGame
from .models.examples import CIRCULANT_PRIORITY as CIRCULANT_PRIORITY
from .models.examples import appendix_e as appendix_e
from .models.examples import circulant_bandit as circulant_bandit
from .models.examples import circulant_start as circulant_start
from .models.examples import example_1 as example_1
from .models.examples import pr_box as pr_box
from .models.examples import three_agents as three_agents
from .models.exogenous import ExogenousMDP as ExogenousMDP
from .models.factored import FactoredMDP as FactoredMDP
from .models.joint import JointMDP as JointMDP
from .models.mdp import MDP as MDP
from .models.named_bandits import BANDITS as BANDITS
from .models.named_bandits import NamedBandit as NamedBandit
from .models.named_bandits import named_bandit as named_bandit
from .models.policies import LocalPolicies as LocalPolicies
from .models.policies import index_policy as index_policy
from .models.policies import product_policy as product_policy
from .models.policies import shared_randomness as shared_randomness
from .models.policies import softmax_policy as softmax_policy
from .models.policy_families import PolicyFamily as PolicyFamily
from .models.policy_families import joint_softmax as joint_softmax
from .models.policy_families import neural_index as neural_index
from .models.policy_families import product_softmax as product_softmax
from .models.policy_families import soft_index as soft_index
from .models.restless_bandit import RestlessBandit as RestlessBandit
from .models.restless_bandit import check_bandit as check_bandit
from .models.soft_index import Roundings as Roundings
from .models.soft_index import SoftIndex as SoftIndex
from .models.soft_index import soft_index_policy as soft_index_policy
from .models.state_mdp import StateMDP as StateMDP
from .models.weakly_coupled import Coupling as Coupling
from .models.weakly_coupled import WeaklyCoupledMDP as WeaklyCoupledMDP
from .models.weakly_coupled import feasible_actions as feasible_actions
from .numerics.elimination import discounted_solve as discounted_solve
from .numerics.simplex import project_simplex as project_simplex
from .numerics.simplex import total_variation as total_variation
from .numerics.simplex import tv_center as tv_center
from .restless import agents as agents
from .restless import lemmas as lemmas
from .restless.agents import AgentsTrajectory as AgentsTrajectory
from .restless.agents import agent_entanglement as agent_entanglement
from .restless.agents import agent_flow as agent_flow
from .restless.agents import agent_policy as agent_policy
from .restless.agents import agent_trajectory as agent_trajectory
from .restless.agents import simulate_agents as simulate_agents
from .restless.agents import type_entanglement as type_entanglement
from .restless.attractor import Attractor as Attractor
from .restless.attractor import Verdict as Verdict
from .restless.attractor import check_attractor as check_attractor
from .restless.exchangeable import exchangeable_chain as exchangeable_chain
from .restless.exchangeable import soft_exchangeable_chain as soft_exchangeable_chain
from .restless.ground_truth import GroundTruth as GroundTruth
from .restless.ground_truth import ground_truth as ground_truth
from .restless.ground_truth import soft_ground_truth as soft_ground_truth
from .restless.indices import FluidPriority as FluidPriority
from .restless.indices import WhittleIndex as WhittleIndex
from .restless.indices import average_whittle_index as average_whittle_index
from .restless.indices import fluid_priority as fluid_priority
from .restless.indices import index_priority as index_priority
from .restless.indices import myopic_priority as myopic_priority
from .restless.indices import random_priority as random_priority
from .restless.indices import whittle_index as whittle_index
from .restless.lemmas import DeviationBound as DeviationBound
from .restless.lemmas import MultiStepBound as MultiStepBound
from .restless.lemmas import deviation_bound as deviation_bound
from .restless.lemmas import lipschitz_constant as lipschitz_constant
from .restless.lemmas import multi_step_bound as multi_step_bound
from .restless.lemmas import multi_step_deviation as multi_step_deviation
from .restless.lemmas import one_step_bound as one_step_bound
from .restless.lemmas import one_step_deviation as one_step_deviation
from .restless.mean_field import MeanField as MeanField
from .restless.mean_field import mean_field as mean_field
from .restless.mean_field import mean_field_step as mean_field_step
from .restless.monte_carlo import MonteCarloValue as MonteCarloValue
from .restless.monte_carlo import discounted_returns as discounted_returns
from .restless.monte_carlo import monte_carlo_q as monte_carlo_q
from .restless.next_counts import configurations as configurations
from .restless.simulate import CountsTrajectory as CountsTrajectory
from .restless.simulate import pair_flow as pair_flow
from .restless.simulate import simulate_counts as simulate_counts
from .restless.soft_mean_field import SoftMeanField as SoftMeanField
from .restless.soft_mean_field import soft_mean_field as soft_mean_field
from .restless.tagged import TaggedEntanglement as TaggedEntanglement
from .restless.tagged import tagged_entanglement as tagged_entanglement
from .sweeps.grid import product_grid as product_grid
from .sweeps.grid import sweep as sweep
from .values import bounds as bounds
from .values.agent_blocks import Merge as Merge
from .values.agent_blocks import best_merge as best_merge
from .values.agent_blocks import entanglement_map as entanglement_map
from .values.agent_blocks import merge_agents as merge_agents
from .values.agent_blocks import merge_rewards as merge_rewards
from .values.approximation_error import ErrorBracket as ErrorBracket
from .values.approximation_error import approximation_error as approximation_error
from .values.bellman import QSolution as QSolution
from .values.bellman import average_reward as average_reward
from .values.bellman import local_q_values as local_q_values
from .values.bellman import q_values as q_values
from .values.bellman import solve_q as solve_q
from .values.bellman import state_values as state_values
from .values.decomposition import Decomposition as Decomposition
from .values.decomposition import decompose as decompose
from .values.decomposition import decomposition_error as decomposition_error
from .values.decomposition import reward_entanglement as reward_entanglement
from .values.value_factorization import ValueFit as ValueFit
from .values.value_factorization import fit_additive as fit_additive
from .values.value_factorization import fit_monotone as fit_monotone
from .values.value_factorization import split_reward as split_reward

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "BANDITS", "CIRCULANT_PRIORITY", "MDP", "AgentsTrajectory", "Attractor", "Audit",
    "ConvexSeparation", "CooperativeGame", "CountsTrajectory", "Coupling", "Decomposition",
    "Descent", "DeviationBound", "Entanglement", "EntanglementEstimate", "EntanglementInterval",
    "ErrorBracket", "ExogenousMDP", "FactoredMDP", "FluidPriority", "GroundTruth", "JointMDP",
    "Labels", "LawSolution", "LocalFlow", "LocalPolicies", "LocalQ", "LocalReturns", "Log",
    "LogsEstimate", "MeanField", "Merge", "Model", "MonteCarloValue", "MultiStepBound",
    "NamedBandit", "PairChain", "PolicyFamily", "QSolution", "RestlessBandit", "RewardFit",
    "Roundings", "SeparableChain", "SeparableDecomposition", "SignNorm", "SignedProduct",
    "SoftIndex", "SoftMeanField", "StateMDP", "TaggedEntanglement", "Trajectory", "ValueFit",
    "Verdict", "WeaklyCoupledMDP", "WhittleIndex", "Witness", "agent_entanglement", "agent_flow",
    "agent_policy", "agent_trajectory", "agents", "appendix_e", "approximation_error",
    "atv_distance", "audit", "average_reward", "average_whittle_index", "bandits", "best_merge",
    "bounds", "by_local", "chain_trajectory", "check_attractor", "check_bandit", "check_mdp",
    "check_policy", "circulant_bandit", "circulant_start", "configurations", "convex_separation",
    "decompose", "decomposition_error", "deviation_bound", "discounted_returns", "discounted_solve",
    "distances", "entanglement_atv", "entanglement_from_logs", "entanglement_interval",
    "entanglement_map", "entanglement_mu_atv", "entanglement_mu_atv_upper", "entanglement_mu_tv",
    "entanglement_tv", "entanglement_tv_signed", "estimate_entanglement", "example_1", "examples",
    "exchangeable_chain", "feasible_actions", "fit_additive", "fit_local_rewards", "fit_monotone",
    "fluid_priority", "from_gymnax", "from_jaxmarl", "ground_truth", "index_policy",
    "index_priority", "is_agentwise_separable", "is_convexly_separable", "is_separable",
    "joint_softmax", "learning", "lemmas", "lipschitz_constant", "local_flow", "local_q_values",
    "local_transition", "lstd_local_q", "marginal", "mean_field", "mean_field_step", "merge_agents",
    "merge_rewards", "minimize_entanglement", "monte_carlo_local_q", "monte_carlo_q",
    "mu_atv_distance", "mu_inf_norm", "mu_norm", "mu_tv_distance", "multi_step_bound",
    "multi_step_deviation", "myopic_priority", "named_bandit", "neighborhood", "network_local_q",
    "neural_index", "one_step_bound", "one_step_deviation", "pair_chain", "pair_counts",
    "pair_flow", "policy_entanglement", "pr_box", "product_grid", "product_policy",
    "product_softmax", "project_simplex", "q_values", "random_priority", "read_log",
    "reward_entanglement", "separability_witness", "separable_decomposition", "shared_randomness",
    "simulate_agents", "simulate_counts", "soft_exchangeable_chain", "soft_ground_truth",
    "soft_index", "soft_index_policy", "soft_mean_field", "softmax_policy", "solve_law", "solve_q",
    "split_reward", "state_counts", "state_values", "stationary_distribution", "sweep",
    "tagged_entanglement", "td_local_q", "three_agents", "to_frame", "total_variation", "tv_center",
    "tv_distance", "type_entanglement", "view_transition", "whittle_index", "with_rewards",
    "with_views",
]
# fmt: on

# Spellings of 0.1.0, taken for one release.
_RENAMED = {
    "neighbourhood": ("chains.subchain", "neighborhood"),
    "stationary_law": ("numerics.elimination", "stationary_distribution"),
    "tv_centre": ("numerics.simplex", "tv_center"),
}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module 'jaxent' has no attribute {name!r}")
    module, new = _RENAMED[name]
    message = f"jaxent.{name} is now jaxent.{new}; the old name goes with 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(import_module(f".{module}", __name__), new)
