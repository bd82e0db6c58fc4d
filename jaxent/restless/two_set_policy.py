r"""The two-set policy: arms near the optimal law are kept there, the others are driven to it.

For a bandit whose relaxation mixes the actions of one state, the neutral one. The first set does as
the relaxation does: states that act in it act, those that rest in it rest, and the neutral state
takes what is left of the set's share of the budget (optimal local control). Its counts z, of m arms
in all, are kept within

$$\lVert z - m \mu \rVert_U \le \eta m - \varepsilon, \qquad U = \Phi U \Phi^\top + I,$$

where $\Phi$ is the linear map of the deviation under that control and $\eta$ the distance at which
the neutral state runs out: there the control is possible, and the next deviation is shorter. Of the
other arms a fixed share, the second set, takes the relaxation's actions in proportion, and the rest
takes up the budget, in the order of IDs. Once all arms are in the first set they mostly stay, which
is what makes the gap exponentially small.

The first set is chosen by counts along one line: first as many of its arms as stay allowed, then as
many of all arms, z between the line's $c \mu$ and what there is, c as large as it can be.

References:
    Hong, Xie, Chen and Wang (2024), Achieving exponential asymptotic optimality in average-reward
    restless bandits without global attractor assumption.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._reads import reads
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.arrays import dot
from .fluid import FluidPolicy, known_data
from .in_turn import Agents, agents_of, drawn

Array = jax.Array
Sets = tuple[Array, Array]

# Sizes of the first set that are looked at, twice: over all, then between two of them.
_TRIED = 64
# A share of arms this small is rounding.
_NOBODY = 1e-9


@reads("two sets of {0.agents.kind.shape[0]} arms, one of them within {0.reach:.3g} of the law")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TwoSetPolicy:
    r"""Arms that are kept near the optimal law, and arms that are driven to it.

    The memory is who is in the first and who in the second set, bool `[N]` each.

    Attributes:
        agents: N of them, their costs and the budget.
        table: π(a|s), `[S, 2]`.
        law: μ, the optimal law of the state, `[S]`.
        norm: U, `[S, S]`.
        reach: η, how far from μ the first set may be; 0 where there can be none.
        margin: ε, in arms: what rounding may do.
        budget: M. Static.
        neutral: the state whose actions are mixed, -1 if there is none. Static.
        stable: whether the deviation shrinks under optimal local control (spectral radius of Φ
            below 1) and one state is neutral; elsewhere the first set is empty. Static.
    """

    agents: Agents
    table: Array
    law: Array
    norm: Array
    reach: Array
    margin: Array
    budget: int = field(metadata={"static": True})
    neutral: int = field(metadata={"static": True})
    stable: bool = field(metadata={"static": True})

    def start(self, key: Array, states: Array) -> Sets:
        """Both sets empty."""
        del key
        self.agents.check(states)
        nobody = jnp.zeros(states.shape, bool)
        return nobody, nobody

    def act(self, key: Array, states: Array, memory: Sets) -> tuple[Array, Sets]:
        """Actions `[N]`, and the two sets."""
        near, follow, wants = jax.random.split(key, 3)
        here = states[:, None] == jnp.arange(len(self.law))[None]  # [N, S]
        first = self._first_set(here, memory[0])
        second = self._second_set(first, memory[1])
        acts = self._in_proportion(follow, here & second[:, None])
        if self.stable:
            acts = acts | self._local(near, here & first[:, None])
        # The rest draw their actions, and are given them by ID; the last ones fill the budget.
        rest = ~first & ~second
        rows = self.table[states]
        asks = rest & (drawn(jax.random.uniform(wants, states.shape, rows.dtype), rows) == 1)
        left = self.budget - acts.sum()
        served = asks & (jnp.cumsum(asks) <= left)
        idle = (rest & ~served)[::-1]
        filled = (idle & (jnp.cumsum(idle) <= left - served.sum()))[::-1]
        return (acts | served | filled).astype(jnp.int32), (first, second)

    def after(self, key: Array, states: Array, actions: Array, memory: Sets, then: Array) -> Sets:
        """The sets as they are."""
        del key, states, actions, then
        return memory

    def allowed(self, counts: Array) -> Array:
        """Whether arms of these counts may be the first set, int32 `[B, S]` to bool `[B]`."""
        size = counts.sum(-1)
        fewest, over = _quotient(size, self.budget, len(self.agents.kind))
        least, most = self._outside(counts)
        possible = (most <= fewest) & (least + counts[:, self.neutral] >= fewest + (over > 0))
        m = size.astype(self.law.dtype)
        apart = counts - m[:, None] * self.law[None]
        length = jnp.sqrt(jnp.maximum((dot(apart, self.norm) * apart).sum(-1), 0))
        return possible & (length <= self.reach * m - self.margin)

    def _outside(self, counts: Array) -> tuple[Array, Array]:
        """The fewest and the most that act outside the neutral state, by how shares are rounded."""
        mean = counts * self.table[:, 1].at[self.neutral].set(0)[None]
        low, high = jnp.floor(mean + _NOBODY), jnp.ceil(mean - _NOBODY)
        return low.sum(-1).astype(jnp.int32), high.sum(-1).astype(jnp.int32)

    def _first_set(self, here: Array, last: Array) -> Array:
        """As much of the last set as is allowed, then as much of all arms."""
        if not self.stable:
            return jnp.zeros_like(last)
        was, new = here & last[:, None], here & ~last[:, None]
        old = was.sum(0, dtype=jnp.int32)
        highs = jnp.stack([old, here.sum(0, dtype=jnp.int32)])
        counts, _ = lax.scan(self._largest, jnp.zeros_like(old), highs)
        # Of each state the last set's arms stay, then come others by ID.
        return _first_of(was, counts) | _first_of(new, counts - old)

    def _largest(self, low: Array, high: Array) -> tuple[Array, None]:
        """The largest allowed counts on the line between these, or `low`, int32 `[S]`."""

        def on_line(c: Array) -> Array:
            most = jnp.floor(c[:, None] * self.law[None] + _NOBODY)
            return jnp.clip(most.astype(jnp.int32), low[None], high[None])

        def finer(between: tuple[Array, Array], none: None) -> tuple[tuple[Array, Array], None]:
            """The largest c that is allowed, and the next one tried."""
            del none
            first, last = between
            tried = first + (last - first) * jnp.linspace(0, 1, _TRIED, dtype=self.law.dtype)
            found = tried[jnp.max(jnp.where(self.allowed(on_line(tried)), jnp.arange(_TRIED), 0))]
            return (found, found + (last - first) / (_TRIED - 1)), None

        seen = self.law > 0
        top = jnp.max(jnp.where(seen, high / jnp.where(seen, self.law, 1), 0))
        (c, _), _ = lax.scan(finer, (jnp.zeros_like(top), top), None, length=2)
        choice = jnp.concatenate([high[None], on_line(c[None]), low[None]])
        fits = self.allowed(choice).at[2].set(True)
        return choice[jnp.argmax(fits)], None

    def _local(self, key: Array, here: Array) -> Array:
        """Who acts in the first set (by state, `[N, S]`): the neutral state takes what is left."""
        rounds, share = jax.random.split(key)
        counts = here.sum(0, dtype=jnp.int32)
        fewest, over = _quotient(counts.sum(), self.budget, len(self.agents.kind))
        uniform = jax.random.uniform(share, (), self.law.dtype)
        total = fewest + (uniform * len(self.agents.kind) < over)
        acts = _rounded(rounds, counts * self.table[:, 1].at[self.neutral].set(0))
        acts = acts.at[self.neutral].set(total - acts.sum(dtype=jnp.int32))
        return _first_of(here, acts)

    def _second_set(self, first: Array, last: Array) -> Array:
        """A fixed share of those outside the first set: its arms stay, then come others by ID."""
        number = len(first)
        least = min(self.budget, number - self.budget)
        size, _ = _quotient(number - first.sum(dtype=jnp.int32), least, number)
        was, new = last & ~first, ~last & ~first
        stays = was & (jnp.cumsum(was) <= size)
        return stays | (new & (jnp.cumsum(new) <= size - was.sum()))

    def _in_proportion(self, key: Array, here: Array) -> Array:
        """Who acts in the second set (by state, `[N, S]`)."""
        acts = _rounded(key, here.sum(0) * self.table[:, 1])
        return _first_of(here, acts)


def _first_of(here: Array, number: Array) -> Array:
    """So many of each state (of those `here`, `[N, S]`), the first by ID, bool `[N]`."""
    place = jnp.cumsum(here, axis=0, dtype=jnp.int32)
    return (here & (place <= number[None])).any(1)


def _rounded(key: Array, mean: Array) -> Array:
    """Whole numbers with these means, up or down at random, int32."""
    low = jnp.floor(mean + _NOBODY)
    up = jax.random.uniform(key, mean.shape, mean.dtype) < mean - low
    return (low + up).astype(jnp.int32)


def _quotient(a: Array, b: int, n: int) -> tuple[Array, Array]:
    """a b // n and the rest, exact where a b is beyond int32: its products wrap around."""
    a = a.astype(jnp.int32)
    whole = jnp.floor(a * (b / n)).astype(jnp.int32)
    rest = a * jnp.int32(b) - whole * jnp.int32(n)
    off = jnp.where(rest < 0, -1, jnp.where(rest >= n, 1, 0))
    return whole + off, rest - off * n


def two_set_policy(
    population: RestlessBandit | WeaklyCoupledPopulation, fluid: FluidPolicy
) -> TwoSetPolicy:
    r"""The two-set policy, for one type, two actions and one budget that is spent exactly.

    The budget is spent exactly at every step, so that `kept` of a run is always true.

    Args:
        population: a `RestlessBandit`, or a population that is one; its values must be known.
        fluid: its relaxation for the average reward, of `fluid_policy(population)`.

    Returns:
        The policy; `stable` is False where the paper's assumptions fail (no neutral state, or
        optimal local control that does not shrink the deviation), and then it has no first set.

    Raises:
        ValueError: for a population that is no such bandit, or a relaxation of another.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> bandit = jaxent.named_bandit("dirichlet", 100).bandit
        >>> policy = jaxent.two_set_policy(bandit, jaxent.fluid_policy(bandit))
        >>> run = jaxent.simulate_population(jax.random.key(0), bandit, policy, num_steps=5)
        >>> print(policy.stable, run.spent[:, 0], run.kept)
        True [50. 50. 50. 50. 50.] True

    References:
        Hong, Xie, Chen and Wang (2024).
    """
    checked = as_population(population)
    data = known_data(checked)
    uses = [d.reshape(*size, -1) for d, size in zip(data.costs, data.sizes, strict=True)]
    if (
        len(uses) != 1
        or uses[0].shape[1:] != (2, 1)
        or not data.equality[0]
        or (uses[0][:, :, 0] != np.array([0, 1])).any()
        or not float(data.limits[0]).is_integer()
    ):
        raise ValueError(
            "population: the two-set policy is for one type, actions 0 and 1 that use 0 and 1, and "
            "one budget of a whole number that is spent exactly; take id_policy for this one"
        )
    ((S, _),) = data.sizes
    if not isinstance(fluid, FluidPolicy) or np.shape(fluid.occupancy[0]) != (S, 2):
        raise ValueError(
            "fluid: wanted the FluidPolicy of this population: fluid_policy(population)"
        )
    number, budget = int(data.counts[0]), int(data.limits[0])
    share = fluid.occupancy[0] / number
    if abs(share.sum() - 1) > 1e-6 or abs(share[:, 1].sum() * number - budget) > 1e-6 * number:
        raise ValueError(
            f"fluid: its occupancy has {fluid.occupancy[0].sum():.6g} agents, of which "
            f"{fluid.occupancy[0][:, 1].sum():.6g} act; wanted that of these {number}, {budget}"
        )
    law, table = share.sum(1), fluid.policy[0]
    mixed = np.flatnonzero((share > _NOBODY).all(1))
    neutral = int(mixed[0]) if len(mixed) == 1 else -1
    P = data.kernels[0].reshape(S, 2, S)
    if np.abs(np.einsum("sa,sat->t", share, P) - law).max() > 1e-6:
        raise ValueError(
            "fluid: its law is not stationary here; wanted fluid_policy(population), without start"
        )
    norm, reach, margin = _control(P, table, law, budget / number, neutral)
    agents = agents_of(checked)
    dtype = agents.costs.dtype
    return TwoSetPolicy(
        agents=agents,
        table=jnp.asarray(table, dtype),
        law=jnp.asarray(law, dtype),
        norm=jnp.asarray(norm, dtype),
        reach=jnp.asarray(reach, dtype),
        margin=jnp.asarray(margin, dtype),
        budget=budget,
        neutral=neutral,
        stable=reach > 0,
    )


def _control(P: np.ndarray, table: np.ndarray, law: np.ndarray, share: float, neutral: int) -> Any:
    """U, η and ε; η is 0 where there is no neutral state or the deviation does not shrink."""
    S = len(law)
    if neutral < 0:
        return np.eye(S), 0.0, 0.0
    from scipy.linalg import solve_discrete_lyapunov

    moves = (table[:, :, None] * P).sum(1)
    swap = P[neutral, 1] - P[neutral, 0]
    step = moves - law - np.outer(table[:, 1] - share, swap)
    if np.abs(np.linalg.eigvals(step)).max() >= 1:
        return np.eye(S), 0.0, 0.0
    norm = solve_discrete_lyapunov(step, np.eye(S))
    norm = (norm + norm.T) / 2
    others = np.arange(S) != neutral
    largest = np.linalg.eigvalsh(norm)[-1]
    apart = [
        _distance(norm, law, np.where(others, table[:, a], 0), bound)
        for a, bound in ((1, share), (0, 1 - share))
    ]
    reach = min(*apart, 2 * largest**0.5)  # laws are nowhere further apart than that
    rounded = 1 + int(((table > 0).all(1) & others).sum())
    return norm, reach, 2 * (2 * largest) ** 0.5 * rounded


def _distance(norm: np.ndarray, law: np.ndarray, weight: np.ndarray, bound: float) -> float:
    """How far the laws x with weight'x >= bound are from this one, in this norm."""
    if weight.max() < bound:
        return np.inf
    from scipy.optimize import minimize

    def half(x: np.ndarray) -> tuple[float, np.ndarray]:
        pull = norm @ (x - law)
        return float(pull @ (x - law)) / 2, pull

    found = minimize(
        half,
        np.eye(len(law))[weight.argmax()],
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(law),
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
            {"type": "ineq", "fun": lambda x: weight @ x - bound, "jac": lambda x: weight},
        ],
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    return float((2 * max(found.fun, 0)) ** 0.5)
