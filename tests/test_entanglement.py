"""Entanglement measures: the reference, orderings, gradients, edges."""

import numpy as np
import pytest

import jaxent
from jaxent import PairChain
from tests.reference import cases

CLOSE = 1e-7  # the reference's own programs are good to about 1e-8


def two_agent_chain(case):
    P = np.array(case["pair_transition"])
    m = round(len(P) ** 0.5)
    return PairChain.from_matrix(P, sizes=(m, m)), np.array(case["stationary"])


def coupled_mdp(case):
    agents = tuple(
        jaxent.MDP(np.moveaxis(np.array(P), 0, 1), np.array(r))
        for P, r in zip(case["transitions"], case["rewards"], strict=True)
    )
    return jaxent.WeaklyCoupledMDP(agents, case["gamma"]), np.array(case["policy"])


def agrees(found, wanted, gap):
    assert found.converged
    assert abs(found.value - wanted) < CLOSE
    assert found.lower - CLOSE / 10 <= wanted <= found.upper + CLOSE / 10
    assert -1e-12 <= found.upper - found.lower <= gap


@pytest.mark.parametrize("case", cases("two_agent"), ids=lambda c: str(len(c["stationary"])))
def test_two_agent_reference(case):
    chain, mu = two_agent_chain(case)
    agrees(jaxent.entanglement_tv(chain), case["tv"], 1e-6)
    agrees(jaxent.entanglement_mu_tv(chain, mu), case["mu_tv"], 1e-6)
    for i in range(2):
        agrees(jaxent.entanglement_atv(chain, agent=i), case["atv"][i], 1e-6)
        upper = jaxent.entanglement_mu_atv_upper(chain, mu, agent=i)
        agrees(upper, case["mu_atv_eq7"][i], 1e-10)
        agrees(jaxent.entanglement_mu_atv(chain, mu, agent=i), case["mu_atv_exact"][i], 1e-6)


@pytest.mark.parametrize("case", cases("weakly_coupled"), ids=lambda c: str(len(c["stationary"])))
def test_weakly_coupled_reference(case):
    mdp, policy = coupled_mdp(case)
    chain = jaxent.pair_chain(mdp, policy)
    mu = jaxent.stationary_distribution(chain)
    for i in range(len(mdp.agents)):
        upper = jaxent.entanglement_mu_atv_upper(chain, mu, agent=i)
        agrees(upper, case["mu_atv_eq7"][i], 1e-10)
        bound = jaxent.policy_entanglement(mdp, policy, mu, agent=i)
        agrees(bound, case["proposition1"][i], 1e-10)
        exact = jaxent.entanglement_mu_atv(chain, mu, agent=i)
        assert exact.converged
        assert exact.lower <= upper.upper <= bound.upper + 1e-12
