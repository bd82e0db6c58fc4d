r"""Does every start end at m*? The uniform global attractor (Assumption 1), with evidence.

The mean field $\phi$ is affine on S pieces (Lemma 7). Between two starts the derivative of $\Phi_t$
is a product of the pieces' matrices along itineraries, that is, sequences of pieces that some start
really visits. If every itinerary, followed long enough, has a product of norm below 1, then
$\Phi_t$ contracts and the attractor is global: a proof, up to rounding. Which itineraries are
visited is a linear program each. A second fixed point, a cycle, or an unstable m* proves the
contrary. What neither finds is said to be undecided.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from .._checks import check_positive_int, concrete
from .._reads import reads
from ..models.restless_bandit import RestlessBandit, check_bandit
from .activation import Priority, active_counts, check_priority
from .exchangeability import Verdict, exchangeable_at
from .lemmas import tangent_norm
from .mean_field import affine_pieces, mean_field

_APART = 1e-6  # points of a cycle closer than this are one
_CLOSE = 1e-10  # a cycle returns to within this
_FAR, _STILL = 1e-3, 1e-13  # an end this far from m* that moves by this little is not merely slow
_STABLE = 1 - 1e-9  # a norm or radius below this contracts
_MAX_PERIOD = 24


@reads("that every start ends at m*: {0.verdict.name}")
class Attractor(NamedTuple):
    r"""A verdict and what it rests on; NumPy, not for a trace.

    Attributes:
        verdict: HOLDS is proved by `contraction` below 1; FAILS by `orbit`, or by
            `spectral_radius` above 1 at a non-degenerate m*; otherwise UNDECIDED.
        configuration: $m^*$, or the first of several fixed points, `[S]`.
        orbit: where FAILS: a cycle `[P, S]`, P >= 2, or another fixed point `[1, S]`; `[0, S]` if
            none was found.
        spectral_radius: of the piece at m*.
        contraction: largest sup-norm of the products that end the itineraries; infinite if the
            search was given up.
        num_itineraries: how many were looked at.
        gap: largest distance from m* after `num_steps` over the vertices and random starts: where
            undecided, near 0 says that no start tried escapes.
        exchangeable: whether every stationary law of the joint chain of `num_agents` agents is
            exchangeable, as far as the kernel or a small chain shows (`check_exchangeability`).
            Where the attractor HOLDS and m* is non-degenerate it is so from some N on, whatever is
            said here.
    """

    verdict: Verdict
    configuration: np.ndarray
    orbit: np.ndarray
    spectral_radius: float
    contraction: float
    num_itineraries: int
    gap: float
    exchangeable: Verdict


def check_attractor(
    bandit: RestlessBandit,
    priority: Priority,
    *,
    num_starts: int = 64,
    num_steps: int = 1000,
    max_itineraries: int = 1000,
    seed: int = 0,
) -> Attractor:
    """Decide Assumption 1 for an index policy, or say that it is undecided.

    Args:
        bandit: the model; but for `exchangeable` only budget / num_agents matters. Not traced.
        priority: states in the order served, `[S]`.
        num_starts: uniform starts on the simplex, besides the S vertices.
        num_steps: of the mean field from each.
        max_itineraries: how many to look at before giving the proof up.
        seed: of the random starts.

    Returns:
        `Attractor`.

    Raises:
        ValueError: for a bandit or priority that is not one, naming the place.

    References:
        Chen and Peng, Assumption 1 and Lemma 7; Gast, Gaujal and Yan (2023), Sec. 5.
    """
    check_bandit(bandit)
    order = check_priority(priority, bandit.num_states)
    check_positive_int("num_steps", num_steps)
    if not concrete(bandit, priority):
        raise ValueError("bandit: its arrays must be known here, not traced values")
    with jax.enable_x64(True):  # a proof wants all digits, whatever the models are held in
        starts = np.random.default_rng(seed).dirichlet(np.ones(bandit.num_states), num_starts)
        return _decide(_exact(bandit), np.asarray(order), starts, num_steps, max_itineraries)


def _exact(bandit: RestlessBandit) -> RestlessBandit:
    """The same bandit in float64, its rows summing to 1 there too."""
    passive, active = (np.asarray(P, float) for P in (bandit.passive, bandit.active))
    return bandit._replace(
        passive=passive / passive.sum(1, keepdims=True),
        active=active / active.sum(1, keepdims=True),
        reward=np.asarray(bandit.reward, float),
    )


def _decide(
    bandit: RestlessBandit,
    priority: np.ndarray,
    starts: np.ndarray,
    num_steps: int,
    max_itineraries: int,
) -> Attractor:
    field = _Field(bandit, priority)
    known = mean_field(bandit, priority)
    alike = Verdict(int(exchangeable_at(bandit, priority)))
    fixed = field.fixed_points()
    star = fixed[0]
    ends = np.concatenate([np.eye(len(star)), starts])
    for _ in range(num_steps):
        ends = field.step(ends)
    gap = float(np.abs(ends - star).max())
    radius = float(known.spectral_radius)
    orbit = fixed[1:2] if len(fixed) > 1 else _cycle(field, ends[np.abs(ends - star).max(1) > _FAR])
    unstable = bool(known.nondegenerate) and radius > 2 - _STABLE
    if len(orbit) or unstable:
        return Attractor(Verdict.FAILS, star, orbit, radius, np.inf, 0, gap, alike)
    contraction, looked_at = _contraction(field, max_itineraries)
    verdict = Verdict.HOLDS if contraction < 1 else Verdict.UNDECIDED
    return Attractor(verdict, star, orbit, radius, contraction, looked_at, gap, alike)


class _Field:
    """The mean field in NumPy: its pieces, and who is served."""

    def __init__(self, bandit: RestlessBandit, order: np.ndarray):
        kernel = np.asarray(bandit.kernel, float)
        self.kernel, self.order = kernel, tuple(int(s) for s in order)
        self.share = float(bandit.budget) / float(bandit.num_agents)
        pieces = affine_pieces(jnp.asarray(kernel), jnp.asarray(order), jnp.asarray(self.share))
        self.served, self.linear, self.offset = (np.asarray(x) for x in pieces)

    def step(self, m: np.ndarray) -> np.ndarray:
        """One step from configurations `[B, S]`."""
        active = active_counts(m, self.share, self.order)
        return (m - active) @ self.kernel[:, 0] + active @ self.kernel[:, 1]

    def pivot(self, m: np.ndarray) -> int:
        """The piece that m lies in."""
        reached = np.cumsum(m[list(self.order)])
        return self.order[min(int((reached <= self.share).sum()), len(m) - 1)]

    def fixed_points(self) -> np.ndarray:
        """Those of all pieces, `[K, S]`, K >= 1 by Brouwer."""
        found: list[np.ndarray] = []
        for linear, offset in zip(self.linear, self.offset, strict=True):
            m = _fixed_point(linear, offset)
            new = all(np.abs(m - other).max() > _APART for other in found)
            if new and self._is_cycle(m, 1):
                found.append(m)
        return np.array(found)

    def _is_cycle(self, m: np.ndarray, period: int) -> bool:
        end = m[None]
        for _ in range(period):
            end = self.step(end)
        return m.min() > -_CLOSE and bool(np.abs(end[0] - m).max() < _CLOSE)

    def cycle_through(self, m: np.ndarray, period: int) -> np.ndarray | None:
        """The cycle with the itinerary of m, solved exactly, or None if it is not one."""
        linear, offset, ahead = np.eye(len(m)), np.zeros(len(m)), m
        for _ in range(period):
            p = self.pivot(ahead)
            linear, offset = linear @ self.linear[p], offset @ self.linear[p] + self.offset[p]
            ahead = self.step(ahead[None])[0]
        start = _fixed_point(linear, offset)
        if not self._is_cycle(start, period):
            return None
        points = [start]
        for _ in range(period - 1):
            points.append(self.step(points[-1][None])[0])
        return np.array(points)


def _fixed_point(linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """m = m K + b with Σ m = 1, by least squares where there are many."""
    size = len(offset)
    return np.linalg.lstsq(np.eye(size) - linear.T + 1 / size, offset + 1 / size, rcond=None)[0]


def _cycle(field: _Field, ends: np.ndarray) -> np.ndarray:
    """A cycle or fixed point that one of these ends lies on, `[P, S]`, or `[0, S]`."""
    for m in ends:
        if np.abs(field.step(m[None])[0] - m).max() < _STILL:
            return m[None]  # one of many: the piece has more fixed points than were solved for
        for period in range(2, _MAX_PERIOD + 1):
            points = field.cycle_through(m, period)
            if points is not None and np.ptp(points, axis=0).max() > _APART:
                return points
    return np.zeros((0, field.linear.shape[-1]))


def _contraction(field: _Field, max_itineraries: int) -> tuple[float, int]:
    """Extend itineraries until each contracts: the largest norm they end with, and their number."""
    num_states = len(field.linear)
    # A product and offset, the linear program's rows, and their bounds.
    start = (np.eye(num_states), np.zeros(num_states), np.zeros((0, num_states)), np.zeros(0))
    open_, largest, looked_at = [start], 0.0, 0
    while open_:
        linear, offset, rows, bounds = open_.pop(0)
        for p in range(num_states):
            looked_at += 1
            if looked_at > max_itineraries:
                return np.inf, looked_at - 1
            before = field.served[p].astype(float)
            through = before + np.eye(num_states)[p]
            # Served before p <= share <= served through p, of the configuration reached.
            more = np.stack([linear @ before, -(linear @ through)])
            limits = np.array([field.share - offset @ before, offset @ through - field.share])
            product = linear @ field.linear[p]
            norm = float(tangent_norm(jnp.asarray(product)))
            here = (np.concatenate([rows, more]), np.concatenate([bounds, limits]))
            if norm < _STABLE:
                largest = max(largest, norm)
            elif _visited(*here):
                open_.append((product, offset @ field.linear[p] + field.offset[p], *here))
    return largest, looked_at


def _visited(rows: np.ndarray, bounds: np.ndarray) -> bool:
    """Whether some configuration meets all of these; a doubt counts as yes."""
    size = rows.shape[1]
    program = scipy.optimize.linprog(
        np.zeros(size), rows, bounds + 1e-9, np.ones((1, size)), np.ones(1), bounds=(0, 1)
    )
    return program.status != 2
