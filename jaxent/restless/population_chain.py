r"""The exact chain of a population: one agent of each type tagged, the others counted.

Given the split, agents of a type and state are told apart by nothing. So (the tagged agents' pairs
x_1, .., x_T, the configuration c of the others, the split j drawn in n = c + Σ e_{s_k}) is a Markov
chain in which the tagged agents move as in the joint chain:

    π(a_1.., j | s_1.., c) = w_j(n) Π_k y_k(s_k, a_k) / n_k(s_k),

with y the split; the others split as y - Σ e_{x_k}, and each type's next counts follow from its own
part alone,

    (K V)(x, c, j) = Σ_s' Σ_c' Π_k P_k(x_k, s_k') L_k(y_k - e_{x_k}, c_k') V(s', c').

That is a Kronecker product of the P_k and of the laws L_k of next counts by pair counts
(`group_law`), of which the rows that occur are gathered. Its views are the tagged pairs, one a
type.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from .._checks import stochastic
from ..chains.pair_chain import PairChain
from ..models.contracts import Agents, known_priority
from ..models.layouts import Views, view_of
from ..models.parts import TablePolicy
from ..models.population import WeaklyCoupledPopulation, as_population
from ..models.restless_bandit import RestlessBandit
from ..models.soft_index import SoftIndex
from ..numerics.arrays import HIGHEST, as_float, dot
from ..numerics.compiled import jit
from ..numerics.devices import lies
from .activation import IndexPolicy
from .group_laws import filled_rows, group_law
from .next_counts import configuration_index, configurations, num_configurations
from .priority_policy import Move, priority_policy
from .splits import (
    CountsPolicy,
    KnownLaw,
    Rules,
    SplitLaw,
    all_counts,
    check_fits,
    counts_place,
    rules_of,
    split_law,
)

Array = jax.Array
OfCounts: TypeAlias = CountsPolicy | SplitLaw | KnownLaw
PopulationPolicy: TypeAlias = OfCounts | Sequence[Move]

# Vectors over pairs that a solve holds at once, and over all rows of the Kronecker product.
_VECTORS = 40
_PRODUCTS = 4
# Numbers of such products that a matrix is made from at once.
_AT_ONCE = 2**22


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PopulationKernel:
    """K: functions of the next (s_1, .., s_T, c), to functions of (x_1, .., x_T, c, j).

    Attributes:
        factors: P_k of each type `[X_k, S_k]`, then the rows of L_k that occur, `[Y_k, C_k]`.
        others: the row of each L_k that each pair has, `[X, C J]` each, with X = Π X_k.
        mesh: the devices that it works over; None for one. Static.
    """

    factors: tuple[Array, ...]
    others: tuple[Array, ...]
    mesh: Mesh | None = field(default=None, metadata={"static": True})

    def mv(self, v: Array) -> Array:
        """K v."""
        rows = _product(self.factors, v.reshape(self.shape(1)))
        rows = rows.reshape(-1, *self.shape(0)[len(self.others) :])
        rows = self._exchanged(rows, to_pairs=True)
        return jax.vmap(lambda row, *at: row[at])(rows, *self.others).reshape(-1)

    def vm(self, mu: Array) -> Array:
        """The law of the next state, mu K."""
        mu = jnp.asarray(mu).reshape(self.others[0].shape)
        zeros = jnp.zeros(self.shape(0)[len(self.others) :], mu.dtype)
        rows = jax.vmap(lambda weight, *at: zeros.at[at].add(weight))(mu, *self.others)
        rows = self._exchanged(rows, to_pairs=False).reshape(self.shape(0))
        return _product([factor.T for factor in self.factors], rows).reshape(-1)

    def matrix(self) -> Array:
        """K itself, for few agents."""
        return _dense(self)

    def stochastic(self) -> Array:
        """Whether every row is a probability vector."""
        kernels = self.factors[: len(self.factors) // 2]
        return jnp.stack([stochastic(P) for P in kernels]).all()

    def filled(self, number: int) -> "PopulationKernel":
        """The same, with as many rows in the largest law as this number of devices divides."""
        k = self._largest
        law = filled_rows(self.factors[k], number)
        return replace(self, factors=(*self.factors[:k], law, *self.factors[k + 1 :]))

    def spread(self, axes: Sequence[str]) -> "PopulationKernel":
        """How it lies on a mesh along (s_1, a_1, .., c, j): by pairs, the largest law by rows."""
        specs: list[Any] = [PartitionSpec() for _ in self.factors]
        specs[self._largest] = PartitionSpec(tuple(axes))
        pairs: Any = PartitionSpec(*self._axes_of_pairs(axes))
        return replace(self, factors=tuple(specs), others=tuple(pairs for _ in self.others))

    def on(self, mesh: Mesh) -> "PopulationKernel":
        """The same, that works over these devices."""
        return replace(self, mesh=mesh)

    def at_work(self, number: int) -> int:
        """Numbers that a product takes on each of so many devices, about."""
        return _PRODUCTS * prod(self.shape(0)) // number

    @property
    def _largest(self) -> int:
        """Which factor is the law with the most rows."""
        num_types = len(self.others)
        return max(range(num_types, 2 * num_types), key=lambda k: len(self.factors[k]))

    def shape(self, axis: int) -> tuple[int, ...]:
        """(X_1, .., Y_T), the rows of the Kronecker product, or (S_1, .., C_T), its columns."""
        return tuple(factor.shape[axis] for factor in self.factors)

    def _axes_of_pairs(self, axes: Sequence[str]) -> tuple[Any, Any]:
        """Which axes of a mesh lie along X, and which along (c, j)."""
        tagged = 2 * len(self.others)
        return tuple(axes[:tagged]) or None, tuple(axes[tagged:]) or None

    def _exchanged(self, rows: Array, *, to_pairs: bool) -> Array:
        """Rows `[X, Y_1, ..]` that are cut as the largest law is, cut as the tagged pairs, or back.

        By way of the rows cut over as many devices as pairs are: a program that goes there at once
        would bring all of them to every device.
        """
        if self.mesh is None:
            return rows
        names = tuple(self.mesh.axis_names)
        tagged, _ = self._axes_of_pairs(names)
        before = [None] * (self._largest - len(self.others) + 1)
        steps = [(*before, names), (*before, tagged), (tagged,)]
        for axes in steps if to_pairs else reversed(steps):
            rows = lies(rows, self.mesh, *axes)
        return rows


def _product(factors: Sequence[Array], v: Array) -> Array:
    """(M_1 ⊗ M_2 ⊗ ..) v, `[n_1, n_2, ..]` to `[m_1, m_2, ..]`, whose axes are never joined.

    So each may be cut over devices of its own. From the last to the first: every product leaves its
    axis in front (`numerics.kron`).
    """
    for factor in reversed(factors):
        last = (((1,), (v.ndim - 1,)), ((), ()))
        v = lax.dot_general(factor, v, last, precision=HIGHEST)
    return v


@jit
def _dense(kernel: PopulationKernel) -> Array:
    """The kernel as a matrix: what it makes of unit vectors, some of them at once."""
    rows, columns = (prod(kernel.shape(axis)) for axis in (0, 1))
    units = jnp.eye(columns, dtype=kernel.factors[0].dtype)
    return lax.map(kernel.mv, units, batch_size=min(columns, max(1, _AT_ONCE // rows))).T


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PopulationLayout:
    """Factors (X_1, .., X_T, (c, j)); a view is the tagged pair of a type.

    Attributes:
        splits: pair counts of the others of each type that occur, `[Y_k, X_k]`.
        others: which of them each pair has, `[J]` each.
        counts: agents of each type. Static.
        sizes: of the factors. Static.
    """

    splits: tuple[Array, ...]
    others: tuple[Array, ...]
    counts: tuple[int, ...] = field(metadata={"static": True})
    sizes: tuple[int, ...] = field(metadata={"static": True})

    @property
    def views(self) -> Views:
        """The tagged pair of each type."""
        return tuple((k,) for k in range(len(self.counts)))

    @property
    def num_alike(self) -> tuple[int, ...]:
        """The view of a tagged agent stands for all of its type."""
        return self.counts

    def project(self, measure: Array, agent: Agents) -> Array:
        """A measure of joint pairs as one of a tagged pair, `[J]` to `[X_k]`."""
        return view_of(self, agent).project(measure)

    def lift(self, functions: Sequence[Array]) -> Array:
        """Σ over all agents of f of their type, `[J]`: tagged ones, and the others counted."""
        total = jnp.zeros((), jnp.result_type(*functions))
        for k, f in enumerate(functions):
            total = total + view_of(self, k).lift(f)
            total = total + dot(self.splits[k].astype(f.dtype), f)[self.others[k]]
        return total

    def spread(self, axes: Sequence[str]) -> "PopulationLayout":
        """How it lies on a mesh along (s_1, a_1, .., c, j): what each pair has, with it."""
        whole, cut = PartitionSpec(), PartitionSpec(tuple(axes))
        splits, others = (whole for _ in self.splits), (cut for _ in self.others)
        return replace(self, splits=tuple(splits), others=tuple(others))


def population_chain(
    population: RestlessBandit | WeaklyCoupledPopulation,
    policy: PopulationPolicy | IndexPolicy,
    memory: int | None = None,
) -> PairChain:
    """The chain; see `exchangeable_chain`."""
    population = as_population(population)
    rules = rules_of(population)
    kernels = [as_float(kind.mdp.transition) for kind in population.types]
    itemsize = jnp.result_type(*kernels).itemsize
    what = "the exact chain"
    check_fits(rules, lambda some: _bytes(some, itemsize, 1), memory, what)
    law = split_law(rules, _law(population, rules, policy))
    num_splits = law.weights.shape[1]
    check_fits(rules, lambda some: _bytes(some, itemsize, num_splits), memory, what)
    table, others = _tables(rules, law)
    sizes = tuple(S * A for S, A in rules.sizes)
    used, others = zip(*(np.unique(place, return_inverse=True) for place in others), strict=True)
    splits = [
        configurations(n - 1, size)[rows]
        for n, size, rows in zip(rules.counts, sizes, used, strict=True)
    ]
    layout = PopulationLayout(
        tuple(jnp.asarray(rows, jnp.int32) for rows in splits),
        tuple(jnp.asarray(place.reshape(-1), jnp.int32) for place in others),
        rules.counts,
        (*sizes, table.shape[-2] * table.shape[-1]),
    )
    part = TablePolicy(jnp.asarray(table, jnp.result_type(*kernels)))
    kernel = _kernel(tuple(kernels), tuple(used), layout.others, rules.counts)
    return PairChain(kernel, part, layout)


def goes_by_counts(policy: object) -> bool:
    """Whether this takes counts to splits, and is no list."""
    known = isinstance(policy, (SplitLaw, KnownLaw))
    return known or (callable(policy) and not isinstance(policy, SoftIndex))


def _law(population: WeaklyCoupledPopulation, rules: Rules, policy: PopulationPolicy | IndexPolicy):
    """A function of the counts as it is; other policies say what they do everywhere at once."""
    if isinstance(policy, SoftIndex):
        raise ValueError("policy: a SoftIndex is for a RestlessBandit, not for a population")
    if isinstance(policy, KnownLaw):
        return policy.law(rules)
    given: Any = policy
    if goes_by_counts(policy):
        return given
    return priority_policy(population, known_priority(given)).law(rules)


@jit(static_argnums=3)
def _kernel(
    kernels: Sequence[Array],
    used: Sequence[Array],
    others: Sequence[Array],
    counts: tuple[int, ...],
) -> PopulationKernel:
    rows = [P.reshape(-1, P.shape[-1]) for P in kernels]  # [X_k, S_k]
    laws = [group_law(P, n - 1)[at] for P, n, at in zip(rows, counts, used, strict=True)]
    size = prod(len(P) for P in rows)
    return PopulationKernel((*rows, *laws), tuple(other.reshape(size, -1) for other in others))


def _tables(rules: Rules, law: SplitLaw) -> tuple[np.ndarray, list[np.ndarray]]:
    """Chances of (a_1.., j) in (s_1.., c), `[S_1, A_1, .., C, J]`, and the others' splits `[J]`.

    A pair that the policy never takes has weight 0. There the tagged agent takes the place of one
    of its state that does something else.
    """
    fewer = rules._replace(counts=tuple(n - 1 for n in rules.counts))
    others = all_counts(fewer)  # [C, S]
    num_types = len(rules.sizes)
    states = np.indices([S for S, _ in rules.sizes]).reshape(num_types, -1)  # [T, Π S_k]
    first = np.cumsum([0] + [S for S, _ in rules.sizes])
    tagged = np.zeros((states.shape[1], first[-1]), np.int64)
    for k in range(num_types):
        tagged[np.arange(len(tagged)), first[k] + states[k]] = 1
    counts = others[None] + tagged[:, None]  # [ΠS, C, S]
    place = counts_place(rules, counts)  # [ΠS, C]
    weights = law.weights[place]  # [ΠS, C, J]
    by_type = rules.pairs_by_type(law.splits[place])  # each [ΠS, C, J, S_k, A_k]
    every = np.arange(len(tagged))
    chances, splits = [], []
    for k, (S, A) in enumerate(rules.sizes):
        here = by_type[k][every, :, :, states[k]]  # [ΠS, C, J, A_k]
        present = counts[every, :, first[k] + states[k]]  # [ΠS, C]
        chances.append(here / present[..., None, None])
        # Whose place each action takes: its own, or where nobody takes it the first that is taken.
        taken = np.where(here > 0, np.arange(A), (here > 0).argmax(-1)[..., None])
        pair = states[k][:, None, None, None] * A + taken  # [ΠS, C, J, A_k]
        flat = by_type[k].reshape(*by_type[k].shape[:3], 1, S * A)
        less = flat - (np.arange(S * A) == pair[..., None])
        splits.append(configuration_index(np.maximum(less, 0)))
    whole = [n for S, A in rules.sizes for n in (S, A)] + [len(others), weights.shape[-1]]
    table = np.ones(whole)
    for k, chance in enumerate(chances):
        table = table * _by_pair(chance, k, rules.sizes)
    table = table * weights.reshape([1 if i % 2 else n for i, n in enumerate(whole[:-1])] + [-1])
    splits = [_by_pair(split, k, rules.sizes) for k, split in enumerate(splits)]
    return table, [np.broadcast_to(split, whole).reshape(-1) for split in splits]


def _by_pair(array: np.ndarray, k: int, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """What depends on one tagged agent's action, `[ΠS, C, J, A_k]`, as `[S_1, 1, .., C, J]`."""
    _, size, num_splits, num_actions = array.shape
    array = array.reshape(*(S for S, _ in sizes), size, num_splits, num_actions)
    array = np.moveaxis(array, -1, k + 1)
    shape = [n for i, (S, _) in enumerate(sizes) for n in (S, num_actions if i == k else 1)]
    return array.reshape(*shape, size, num_splits)


def _bytes(rules: Rules, itemsize: int, num_splits: int) -> int:
    """What the chain and a solve with it hold, about."""
    pairs, rows, laws = num_splits, 1, 0
    for n, (S, A) in zip(rules.counts, rules.sizes, strict=True):
        others = num_configurations(n - 1, S)
        split = num_configurations(n - 1, S * A)
        pairs *= S * A * others
        rows *= S * A * split
        laws += split * others
    return (_VECTORS * pairs + _PRODUCTS * rows + laws) * itemsize
