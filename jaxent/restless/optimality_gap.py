r"""How far a policy is from the bound that no policy passes, without a difference of near numbers.

At the prices $\lambda$ and values h of the relaxation (`fluid_policy`) an agent of type k loses

$$\ell_k(s, a) = g_k + h_k(s) - r_k(s, a) + \lambda \cdot d_k(s, a) - \sum_{s'} P_k(s'|s, a) h_k(s')
  \ge 0$$

by an action, $g_k$ being the most that any action leaves. Summed over the agents, with y the split
and n, n' the counts before and after a step,

$$\sum y\, \ell + \lambda \cdot (b - \textstyle\sum y\, d)
  = \text{bound} - \bigl(r(y) + E[h(n') | y] - h(n)\bigr).$$

In the mean over a stationary law h cancels: the gap is the mean of the left side, whose terms are
not negative. So are all the fluctuations of h(n), which are most of those of the reward. From a
start, discounted, the same holds with $\gamma P_k$, $g_k = 0$ and sums in place of means.

References:
    Henderson and Glynn (2002), Approximating martingales for variance reduction in Markov process
    simulation; Brown and Zhang (2022), Dynamic programs with shared resources and signals.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_positive_int
from .._reads import reads
from ..chains.stationary import stationary_distribution
from ..models.contracts import ArrayLike
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..numerics.compiled import jit
from ..values.bellman import q_values
from .fluid import Data, FluidPolicy, check_start, fluid_policy, known_data
from .population_chain import PopulationPolicy, population_chain
from .population_process import ByType, DrawnPolicy, Process, Splits, process_of
from .priority_policy import Move
from .simulate_population import check_counts, ledger
from .splits import counts_place, rules_of

Array = jax.Array

# A bound that values and prices prove may miss that of the program by this share of the rewards.
_PROVED = 1e-6


@reads(
    "{0.gap:.4g} below the bound {0.bound:.9g}, standard error {0.standard_error:.2g}; "
    "budgets kept: {0.kept}"
)
class OptimalityGap(NamedTuple):
    r"""Distance of a policy from the bound, for the whole population.

    Attributes:
        gap: bound less reward: a step on average, or discounted and summed.
        standard_error: of `gap` and of `reward`, from the spread over runs.
        bound: no policy that keeps the budgets earns more.
        reward: of the policy, `bound - gap`.
        plain_standard_error: of the mean reward of the same runs, without the relaxation's values.
        truncation: the most that `gap` may be short of, by what comes after the last step of a
            discounted run; 0 for an average, which assumes that `burn_in` forgets the start.
        kept: whether every budget was kept at all epochs; if not, the bound is not one for it.
        num_runs: R.
        num_steps: T of each run, after the burn-in.
    """

    gap: Array
    standard_error: Array
    bound: Array
    reward: Array
    plain_standard_error: Array
    truncation: Array
    kept: Array
    num_runs: int
    num_steps: int


class Losses(NamedTuple):
    """What the gap is the mean of.

    Attributes:
        loss: $\\ell_k$ of each type, `[S_k, A_k]`.
        prices: λ, `[K]`.
        bound: that these prove.
        most: the most that a step can lose.
    """

    loss: tuple[np.ndarray, ...]
    prices: np.ndarray
    bound: float
    most: float

    def by_agent(self, data: Data) -> list[np.ndarray]:
        """Losses and an even share of what is left of the budgets, `[S_k, A_k]`: they add up."""
        share = self.prices @ data.limits / data.counts.sum()
        both = zip(self.loss, data.costs, strict=True)
        return [x + share - (d @ self.prices).reshape(x.shape) for x, d in both]


def optimality_gap(
    key: Array,
    population: RestlessBandit | WeaklyCoupledPopulation,
    policy: DrawnPolicy | Sequence[Move] | Splits,
    *,
    num_steps: int,
    num_runs: int = 8,
    burn_in: int | None = None,
    start: Sequence[ArrayLike | Sequence[int]] | None = None,
    fluid: FluidPolicy | None = None,
) -> OptimalityGap:
    r"""How far a policy is from the bound of `fluid_policy`, by simulation at any N.

    The mean of what its actions lose at the relaxation's prices and values, and of what is left of
    budgets that have a price. Its noise falls with the gap itself: a policy that is optimal in the
    limit is told from the bound by far fewer steps than by its reward.

    Args:
        key: of `jax.random.key`.
        population: or a `RestlessBandit`; its values must be known.
        policy: as for `simulate_population`.
        num_steps: T of each run. Static.
        num_runs: R, independent runs, at least 2. Static.
        burn_in: steps before those that count, T / 4 if not given; runs begin near the relaxation's
            law. Without a meaning, and 0, from a start. Static.
        start: whole agents of each type by state: the discounted reward from there is meant. The
            average reward if not given.
        fluid: `fluid_policy(population, start=start)` where it is known.

    Returns:
        The gap with its standard error.

    Raises:
        ValueError: for a bad population, policy or start, or a `fluid` of another population.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> bandit = jaxent.circulant_bandit(1000)
        >>> moves = jaxent.fluid_policy(bandit)
        >>> found = jaxent.optimality_gap(jax.random.key(0), bandit, moves, num_steps=400)
        >>> bool(found.kept), bool(found.standard_error < found.plain_standard_error)
        (True, True)

    References:
        Henderson and Glynn (2002).
    """
    check_positive_int("num_steps", num_steps)
    if num_runs < 2:
        raise ValueError(f"num_runs: {num_runs} is not at least 2, which a standard error needs")
    if start is not None and burn_in:
        raise ValueError(f"burn_in: {burn_in} steps cannot be left out of what follows a start")
    data = known_data(population)
    checked = as_population(population)
    if start is not None:
        check_counts(start, checked)
    fluid = fluid_policy(checked, start=start) if fluid is None else fluid
    losses = fluid_losses(data, fluid, start)
    if start is None:
        skipped = num_steps // 4 if burn_in is None else burn_in
        weights = np.append(np.zeros(skipped), np.full(num_steps, 1 / num_steps))
        begin, truncation = start_near(fluid, data.counts), 0.0
    else:
        weights = data.discount ** np.arange(num_steps)
        begin = start
        truncation = losses.most * data.discount**num_steps / (1 - data.discount)
    counts = tuple(jnp.asarray(part, jnp.int32) for part in begin)
    process = process_of(checked, policy)
    terms = np.concatenate([x.reshape(-1) for x in losses.loss]), losses.prices, weights
    gaps, plain, kept = _runs(key, checked, process, counts, *terms, num_runs=num_runs)
    return _summed(losses, truncation, *map(np.asarray, (gaps, plain, kept)), num_steps=num_steps)


def _summed(
    losses: Losses,
    truncation: float,
    gaps: np.ndarray,
    plain: np.ndarray,
    kept: np.ndarray,
    *,
    num_steps: int,
) -> OptimalityGap:
    """Means and standard errors over runs."""
    root = np.sqrt(len(gaps))
    mean = gaps.mean(dtype=np.float64)
    return OptimalityGap(
        gap=jnp.asarray(mean, gaps.dtype),
        standard_error=jnp.asarray(gaps.std(ddof=1) / root),
        bound=jnp.asarray(losses.bound, gaps.dtype),
        reward=jnp.asarray(losses.bound - mean, gaps.dtype),
        plain_standard_error=jnp.asarray(plain.std(ddof=1) / root),
        truncation=jnp.asarray(truncation, gaps.dtype),
        kept=jnp.asarray(kept.all()),
        num_runs=len(gaps),
        num_steps=num_steps,
    )


def exact_gap(
    population: RestlessBandit | WeaklyCoupledPopulation,
    policy: PopulationPolicy,
    *,
    start: Sequence[ArrayLike | Sequence[int]] | None = None,
    fluid: FluidPolicy | None = None,
    memory: int | None = None,
) -> Array:
    r"""The gap of `optimality_gap` without an error, for few agents, by `exchangeable_chain`.

    Gaps far below the rounding of the bound itself keep their digits: nothing is subtracted but
    what is left of the budgets.

    Args:
        population: or a `RestlessBandit`; its values must be known.
        policy: as for `exchangeable_chain`.
        start: whole agents of each type by state, for the discounted reward from there.
        fluid: `fluid_policy(population, start=start)` where it is known.
        memory: bytes that the chain may take; by default what the device has.

    Returns:
        A scalar.

    Raises:
        ValueError: as `exchangeable_chain` and `fluid_policy` do.
    """
    data, checked = known_data(population), as_population(population)
    if start is not None:
        check_counts(start, checked)
    fluid = fluid_policy(checked, start=start) if fluid is None else fluid
    chain = population_chain(checked, policy, memory)
    each = [jnp.asarray(x) for x in fluid_losses(data, fluid, start).by_agent(data)]
    if start is None:
        return stationary_distribution(chain) @ chain.lift(each)
    values = chain.policy.mv(q_values(chain, each, discount=data.discount))
    return values[_place(checked, [np.asarray(part, np.int64) for part in start])]


def fluid_losses(
    data: Data, fluid: FluidPolicy, start: Sequence[ArrayLike | Sequence[int]] | None
) -> Losses:
    """What is lost by each action at the values and prices of a relaxation."""
    agents = None if start is None else check_start(start, data)
    discount = 1.0 if agents is None else data.discount
    if not isinstance(fluid, FluidPolicy):
        raise ValueError(f"fluid: {type(fluid).__name__} is not a FluidPolicy")
    shapes = [np.shape(h) for h in fluid.values]
    if shapes != [(S,) for S, _ in data.sizes] or np.shape(fluid.prices) != data.limits.shape:
        raise ValueError("fluid: is not the fluid_policy of this population")
    step = 1.0 if agents is None else 1 - data.discount
    bound = fluid.prices @ data.limits / step
    most = fluid.prices @ data.limits
    losses = []
    for k, (P, size) in enumerate(zip(data.kernels, data.sizes, strict=True)):
        h, paid = fluid.values[k], data.costs[k] @ fluid.prices
        left = (data.rewards[k] - paid + discount * P @ h).reshape(size) - h[:, None]
        gain = left.max() if agents is None else 0.0
        bound += data.counts[k] * gain if agents is None else agents[k] @ h
        losses.append(gain - left)
        most += data.counts[k] * (losses[k].max() - paid.min())
    scale = sum(n * np.abs(r).max() for n, r in zip(data.counts, data.rewards, strict=True))
    if abs(bound - fluid.value) > _PROVED * (scale / step + abs(fluid.value)):
        raise ValueError(
            f"fluid: its values and prices prove {bound:.6g} here, not {fluid.value:.6g}: it is of "
            "another population, or of another start"
        )
    return Losses(tuple(losses), fluid.prices, float(bound), float(max(most, 0)))


def start_near(fluid: FluidPolicy, counts: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Whole agents of each type by state, as near to the law of the relaxation as they can be."""
    begin = []
    for y, n in zip(fluid.occupancy, counts, strict=True):
        wanted = np.maximum(y.sum(1), 0)
        wanted = wanted * int(n) / wanted.sum()
        whole = np.floor(wanted).astype(np.int64)
        order = np.argsort(whole - wanted, kind="stable")  # the largest rest first
        whole[order[: int(n) - whole.sum()]] += 1
        begin.append(whole)
    return begin


def _place(population: WeaklyCoupledPopulation, start: list[np.ndarray]) -> int:
    """The state (tagged states, others) of the chain at these counts: tagged agents anywhere."""
    rules = rules_of(population)
    states = [int(part.argmax()) for part in start]
    others = [part - (np.arange(len(part)) == s) for part, s in zip(start, states, strict=True)]
    fewer = rules._replace(counts=tuple(n - 1 for n in rules.counts))
    place = int(np.ravel_multi_index(states, [S for S, _ in rules.sizes]))
    return place * fewer.num_counts + int(counts_place(fewer, np.concatenate(others)))


@partial(jit, static_argnames=("num_runs",))
def _runs(
    key: Array,
    population: WeaklyCoupledPopulation,
    process: Process,
    counts: ByType,
    loss: Array,
    prices: Array,
    weights: Array,
    *,
    num_runs: int,
) -> tuple[Array, Array, Array]:
    """Weighted sums of losses and of rewards over each run, `[R]`, and whether budgets held."""
    paid, used, keeps = ledger(population)
    dtype = paid.dtype
    limits = jnp.stack([jnp.asarray(limit, dtype) for limit in population.limits])
    loss, prices, weights = (jnp.asarray(x, dtype) for x in (loss, prices, weights))

    def step(state, keys: Array):
        splits, acted = process.act(keys[0], state)
        agents = jnp.concatenate([part.reshape(-1) for part in splits]).astype(dtype)
        spent = (agents[:, None] * used).sum(0)
        lost = (agents * loss).sum() + (prices * (limits - spent)).sum()
        return process.move(keys[1], acted), (lost, (agents * paid).sum(), keeps(spent))

    def run(keys: Array) -> tuple[Array, Array, Array]:
        begin = process.start(keys[-1, 0], counts)
        _, (lost, reward, kept) = lax.scan(step, begin, keys[:-1])
        return (weights * lost).sum(), (weights * reward).sum(), kept.all()

    return jax.vmap(run)(jax.random.split(key, (num_runs, len(weights) + 1, 2)))
