"""What is measured of a problem: each policy's diagnostics, and what trained teams lose."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from jaxent.models.tabulated import Tabulated

from .problems import PROBLEMS, exploring, heuristic, model, team_reward, uniform
from .training import greedy, independent, learned, returned

Array = jax.Array
Tables = tuple[Array, ...]

# In this share of the epochs a policy that is measured plays anything.
EXPLORED = 0.1
# Joint pairs beyond which a mixture is fitted from one start and for a shorter time.
_SMALL = 3_000
# Joint pairs beyond which E_i and the mixture are left out.
MANY = 200_000


class Budget(NamedTuple):
    """How long is trained.

    Attributes:
        seeds: trainings of each kind.
        targets: renewals of the target of Q-learning.
        steps: of policy gradients.
        starts: of a mixture that is fitted for a policy, on small problems.
        renewals: of its target.
    """

    seeds: int
    targets: int
    steps: int
    starts: int
    renewals: int


class Row(NamedTuple):
    """A problem under a policy. Errors are mean |Q - f| under the policy's law, over the spread of
    Q there (mean |Q - mean|); losses are shares of what the best team gains over random play.

    Attributes:
        problem: its name.
        policy: uniform, heuristic, independent, vdn or qmix; all but the first explore.
        value: its return from the start.
        entanglement: the largest E_i, right-hand side of Eq. (7); None where not computed.
        entanglement_sum: the sum of them.
        reward: reward entanglement of Eq. (14), over the mean distance of the reward from its mean.
        sum_error: of the sum of values learned alone, each from what it is paid on average at its
            own pair; a reward paid to all is split by least squares.
        vdn_error: of VDN's fixed point for this policy.
        vdn_share: the same as a share of mean |Q|, as it is usually told.
        qmix_error: of QMIX's.
        vdn_gap: lost by the greedy team of VDN's fixed point to the best that decide alone; None
            where only samples tell.
        qmix_gap: the same for QMIX.
        kind: exact or estimated.
        value_error: standard error of the value; where it is estimated that is the mean reward of
            a step, averaged over agents.
        sum_lower: end of the interval of `sum_error` where that is estimated.
        sum_upper: the other end.
    """

    problem: str
    policy: str
    value: float
    entanglement: float | None
    entanglement_sum: float | None
    reward: float | None
    sum_error: float
    vdn_error: float | None
    vdn_share: float | None
    qmix_error: float | None
    vdn_gap: float | None
    qmix_gap: float | None
    kind: str = "exact"
    value_error: float | None = None
    sum_lower: float | None = None
    sum_upper: float | None = None


class Trained(NamedTuple):
    """What there is to gain in a problem, and what trained teams gain.

    Attributes:
        problem: its name.
        family: of it.
        states: S.
        pairs: joint pairs.
        agents: N.
        discount: of returns.
        uniform: return of random play.
        best: of the best team found whose agents decide on their own by what they see.
        certain: whether no such team can be better.
        joint: of the best joint policy; None where not known.
        returns: of each kind of training, one a seed.
        kind: exact or estimated.
    """

    problem: str
    family: str
    states: int
    pairs: int
    agents: int
    discount: float
    uniform: float
    best: float
    certain: bool
    joint: float | None
    returns: dict[str, list[float]]
    kind: str = "exact"


def lost(best: float, random: float, value: float) -> float:
    """The share of what the best team gains over random play that is not gained; 0 if none is."""
    room = best - random
    small = 1e-9 * max(abs(best), abs(random))
    return 0.0 if room <= small else max(best - value, 0.0) / room


def measure(name: str, seed: int, budget: Budget) -> dict[str, Any]:
    """All rows of a problem, and what is trained on it."""
    problem = PROBLEMS[name]
    game, rules = model(problem)
    own = jax.random.fold_in(jax.random.key(seed), crc32(name.encode()))
    names = ("independent", "vdn", "qmix", "fit")
    keys = dict(zip(names, jax.random.split(own, len(names)), strict=True))
    seeds, targets = budget.seeds, budget.targets
    if problem.large:
        seeds, targets = 1, max(1, targets // 4)
    made = {
        "independent": independent(
            keys["independent"], game, num_seeds=seeds, num_steps=budget.steps
        ),
        "vdn": learned(keys["vdn"], game, mixed=False, num_seeds=seeds, num_targets=targets),
        "qmix": learned(keys["qmix"], game, mixed=True, num_seeds=seeds, num_targets=targets),
    }
    teams = {kind: _teams(tables) for kind, tables in made.items()}
    returns = {kind: [returned(game, t) for t in each] for kind, each in teams.items()}
    policies = {"uniform": uniform(game)}
    if rules.heuristic is not None:
        policies["heuristic"] = heuristic(game, rules.heuristic, EXPLORED)
    for kind, each in teams.items():
        middle = int(np.argsort(returns[kind])[len(each) // 2])
        policies[kind] = exploring(game, each[middle], EXPLORED)

    reward = team_reward(game)
    found: list[Any] = []
    for k, policy in enumerate(policies.values()):
        same = [j for j, other in enumerate(policies.values()) if j < k and (policy == other).all()]
        own = found[same[0]] if same else _policy(game, reward, policy, keys["fit"], budget)
        found.append(own)
    gaps = [gap for _, pair in found for gap in pair if gap is not None]
    every = [*(gap.decentralized_lower for gap in gaps), *np.concatenate([*returns.values()])]
    best = float(np.max(every))
    joint = gaps[0].joint_return
    certain = any(gap.decentralized_upper <= best + 1e-9 * (1 + abs(best)) for gap in gaps)
    random = returned_by(game, reward, policies["uniform"])
    trained = Trained(
        problem=name,
        family=problem.family,
        states=game.num_states,
        pairs=len(reward),
        agents=len(game.num_actions),
        discount=problem.discount,
        uniform=random,
        best=best,
        certain=certain,
        joint=joint,
        returns=returns,
    )
    rows = []
    for policy, (numbers, (vdn, qmix)) in zip(policies, found, strict=True):
        row = Row(
            problem=name,
            policy=policy,
            **numbers,
            vdn_gap=lost(best, random, vdn.greedy_return),
            qmix_gap=None if qmix is None else lost(best, random, qmix.greedy_return),
        )
        rows.append(row)
    return {"trained": trained, "rows": rows}


def _teams(tables: Tables) -> list[Tables]:
    """The greedy team of each seed."""
    return [greedy(tuple(t[i] for t in tables)) for i in range(len(tables[0]))]


def returned_by(game: Tabulated, reward: Array, policy: Array) -> float:
    """The return of a joint policy from the start."""
    chain = jaxent.pair_chain(game, policy)
    values = jaxent.state_values(chain, reward, discount=game.discount)
    return float(jnp.asarray(game.start) @ values)


def _policy(
    game: Tabulated, reward: Array, policy: Array, key: Array, budget: Budget
) -> tuple[dict[str, Any], tuple[jaxent.GreedyGap, jaxent.GreedyGap | None]]:
    """The numbers of a row, and the greedy teams of VDN's and QMIX's fixed points."""
    chain = jaxent.pair_chain(game, policy)
    mu = jaxent.stationary_distribution(chain)
    discount, many = game.discount, len(reward) > MANY
    if jnp.shape(game.paid)[-1] == 1 < len(game.num_actions):  # one reward paid to all
        local = jaxent.split_reward(chain, reward, mu=mu)
    else:
        local = game.mean_rewards(mu)
    alone = jaxent.local_q_values(chain, local, discount=discount, mu=mu)
    vdn = jaxent.fit_additive(chain, reward, discount=discount, mu=mu)
    spread = float(mu @ jnp.abs(vdn.q_joint - mu @ vdn.q_joint))
    paid = float(mu @ jnp.abs(reward - mu @ reward))
    values = chain.policy.mv(vdn.q_joint)
    error = jnp.where(mu > 0, vdn.q_joint - chain.lift(alone), 0)
    own: Sequence[Any] = ()
    split = qmix = None
    if not many:
        agents = range(len(game.num_actions))
        own = [jaxent.entanglement_mu_atv_upper(chain, mu, agent=i).value for i in agents]
        split = _share(jaxent.reward_entanglement(chain, reward, mu, tol=1e-5).value, paid)
        small = len(reward) <= _SMALL
        qmix = jaxent.fit_monotone(
            key, chain, reward, discount=discount, mu=mu,
            num_starts=budget.starts if small else 1,
            num_targets=budget.renewals if small else min(30, budget.renewals),
        )  # fmt: skip
    numbers = {
        "value": float(jnp.asarray(game.start) @ values),
        "entanglement": float(max(own)) if own else None,
        "entanglement_sum": float(sum(own)) if own else None,
        "reward": split,
        "sum_error": _share(mu @ jnp.abs(error), spread),
        "vdn_error": _share(vdn.mu_error, spread),
        "vdn_share": float(vdn.relative_error),
        "qmix_error": None if qmix is None else _share(qmix.mu_error, spread),
    }
    played = [None if fit is None else jaxent.greedy_gap(game, fit.q_local, rewards=reward)
              for fit in (vdn, qmix)]  # fmt: skip
    assert played[0] is not None
    return numbers, (played[0], played[1])


def _share(part: Any, whole: float) -> float:
    """A part of a whole; 0 of nothing."""
    return float(part) / whole if whole > 0 else 0.0
