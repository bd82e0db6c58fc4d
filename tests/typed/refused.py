"""Lines that a type checker refuses; never run. `test_contracts` says that each marked one is."""

import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.models.contracts import Kernel, Layout, Model, PolicyPart
from jaxent.models.parts import DenseKernel, KroneckerKernel, NoChoice, TablePolicy

mdp, policy = jaxent.example_1()
chain = jaxent.pair_chain(mdp, policy)
mu = jaxent.stationary_distribution(chain)
bandit = jaxent.circulant_bandit(5)

jaxent.par_chain(mdp, policy)  # refused
jaxent.pair_chain("not a model", 3.5)  # refused
jaxent.pair_chain(mdp, 3.5)  # refused
jaxent.pair_chain(bandit, policy)  # refused
jaxent.check_mdp(bandit)  # refused
jaxent.check_bandit(mdp)  # refused
jaxent.q_values(mdp, mdp.rewards, discount=0.9)  # refused
jaxent.q_values(chain, mdp.rewards, discount="0.9")  # refused
jaxent.decompose(policy, mdp.rewards, discount=0.9)  # refused
jaxent.entanglement_atv(mdp, agent=0)  # refused
jaxent.entanglement_atv(chain, agent="first")  # refused
jaxent.entanglement_mu_atv(chain, "mu", agent=0)  # refused
jaxent.policy_entanglement(bandit, policy, mu, agent=0)  # refused
jaxent.joint_softmax("model")  # refused
jaxent.with_views("chain", [0])  # refused
jaxent.neighborhood(mdp, policy, agent=0)  # refused
jaxent.PairChain(kernel="K", policy=chain.policy, layout=chain.layout)  # refused
jaxent.bounds.theorem_4(chain, mdp.rewards, discount=None)  # refused

# What fits is not refused.
jaxent.pair_chain(mdp, np.asarray(policy))
jaxent.q_values(chain, mdp.rewards, discount=np.float64(0.9))
jaxent.q_values(chain, jnp.ones(chain.num_pairs), discount=jnp.array(0.9))
jaxent.entanglement_atv(chain, agent=(0, 1))
models: list[Model] = [mdp, mdp.agents[0], jaxent.JointMDP(jnp.ones((1, 1, 1)), (policy,), 0.5)]
kernels: list[Kernel] = [DenseKernel(policy), KroneckerKernel((policy,)), chain.kernel]
parts: list[PolicyPart] = [TablePolicy(policy), NoChoice(2)]
layouts: list[Layout] = [chain.layout]
