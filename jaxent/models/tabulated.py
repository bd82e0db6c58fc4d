"""What a game becomes: a `StateMDP` that knows what its states and observations are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._reads import reads
from ..numerics.arrays import ratio
from .contracts import ArrayLike, Scalar
from .state_mdp import StateMDP
from .state_search import Reached, clean, rows_of, shown

Array = jax.Array


@reads("a game of {0.start.shape[0]} states, discount {0.discount}")
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Tabulated(StateMDP):
    r"""A `StateMDP` made of a game, which knows what its states are.

    Where each agent's reward is a function of its own pair (o_i, a_i), `rewards` are these; else
    there is one reward of all, the sum over agents, `[S, A_0..]`.

    Attributes:
        states: what state s is, leaves `[S, ..]` at s.
        seen: what observation o of each agent is, leaves `[O_i, ..]` at o.
        paid: rewards of each agent, `[S, A_0.., K, N]`, or `[S, A_0.., 1, N]` where no outcome
            matters; one in the place of N where all are paid the same.
        samples: number of keys that a pair's chances are estimated from, int `[S, A_0..]`; 0 where
            they are exact.
        start_samples: the same of the law of the first state.
    """

    states: Any
    seen: tuple[Any, ...]
    paid: Array
    samples: Array
    start_samples: int = field(metadata={"static": True})

    @property
    def estimated(self) -> bool:
        """Whether some of it was sampled and is not exact."""
        return self.start_samples > 0 or bool(np.any(self.samples))

    def state(self, s: int) -> Any:
        """What state s is."""
        return jax.tree.map(lambda x: x[s], self.states)

    def mean_rewards(self, mu: ArrayLike) -> tuple[Array, ...]:
        r"""What each agent earns on average at its own pair, `[O_i, A_i]`: local TD learns this.

        E_mu[r_i(s, a) | o_i, a_i]; 0 where mu never goes. Of a reward that is paid to the team each
        has an equal part, so that in the mean all add up to it.

        Args:
            mu: law of the joint pairs, `[J]`.
        """
        mu = jnp.reshape(jnp.asarray(mu), (-1,))
        earned = self._earned(jnp.asarray(self.transition[1]))
        tables, agents = [], len(self.observations)
        for i in range(agents):
            view = self._view(i)
            mine = earned[:, i] if earned.shape[1] == agents else earned[:, 0] / agents
            table = ratio(view.project(mu * mine), view.project(mu))
            tables.append(table.reshape(self.local_shapes()[i]))
        return tuple(tables)

    def with_chances(self, chances: ArrayLike, start: ArrayLike | None = None) -> "Tabulated":
        """The same game with other probabilities of its outcomes; shared rewards go with them."""
        chances = jnp.asarray(chances)
        shared = not isinstance(self.rewards, (tuple, list))
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        parts["transition"] = (self.transition[0], chances)
        if shared and self.paid.shape[-2] > 1:
            parts["rewards"] = self._earned(chances).sum(-1).reshape(self.policy_shape)
        if start is not None:
            parts["start"] = start
        return Tabulated(**parts)

    def _earned(self, chances: Array) -> Array:
        """Mean rewards of joint pairs, `[J, N]`, or `[J, 1]` where one is paid to all."""
        paid = jnp.asarray(self.paid)
        paid = paid.reshape(-1, *paid.shape[-2:])
        if paid.shape[1] == 1:
            return paid[:, 0]
        return (chances.reshape(*paid.shape[:2], 1) * paid).sum(1)

    def __str__(self) -> str:
        """What it is made of, on a few lines."""
        pairs = self.num_states * prod(self.num_actions)
        number, begun = int(np.count_nonzero(self.samples)), self.start_samples
        most = int(np.max(self.samples))
        parts = [f"{number} of {pairs} pairs from {most} keys each"] * (number > 0)
        parts += [f"the start from {begun} keys"] * (begun > 0)
        exact = f"estimated: {', '.join(parts)}" if parts else "exact"
        kind = "of each agent's pair" if isinstance(self.rewards, tuple) else "one of all"
        return (
            f"Tabulated: {self.num_states} states, {pairs} joint pairs, {exact}\n"
            f"  actions {self.num_actions}, observations {self.num_observations}\n"
            f"  at most {np.shape(self.transition[0])[-1]} outcomes of a pair; rewards: {kind}"
        )


def model_of(
    found: Reached,
    law: np.ndarray,
    observe: Callable[[Any], Any],
    sizes: tuple[int, ...],
    discount: Scalar,
    samples: np.ndarray,
    start_samples: int,
) -> Tabulated:
    """The model of the states reached, whose weights are probabilities by now."""
    count = len(found.to)
    start = np.bincount(found.first, law, count) / law.sum()
    # One first state is where an end leads; several are a law.
    end = int(found.first[0]) if len(set(found.first.tolist())) == 1 else count
    to = np.where(found.to < 0, end, found.to).astype(np.int32)
    codes, seen = _labels(found, observe, len(sizes))
    paid = found.paid
    if paid.shape[2] > 1 and (paid == paid[:, :, :1]).all():
        paid = paid[:, :, :1]
    one = paid.shape[2] == 1
    earned = paid[:, :, 0] if one else (found.weights[..., None] * paid).sum(2)  # [S, A, N]
    rewards = _local_rewards(earned, codes, seen, sizes)
    if rewards is None:
        rewards = jnp.asarray(earned.sum(-1).reshape(count, *sizes))
    shape = (count, *sizes)
    return Tabulated(
        transition=(
            jnp.asarray(to.reshape(*shape, -1)),
            jnp.asarray(found.weights.reshape(*shape, -1)),
        ),
        observations=tuple(tuple(code.tolist()) for code in codes),
        rewards=rewards,
        discount=discount,
        start=jnp.asarray(start, found.weights.dtype),
        states=found.states,
        seen=seen,
        paid=jnp.asarray(paid.reshape(*shape, *paid.shape[2:])),
        samples=jnp.asarray(samples.reshape(shape)),
        start_samples=start_samples,
    )


def _labels(
    found: Reached, observe: Callable[[Any], Any], agents: int
) -> tuple[list[np.ndarray], tuple[Any, ...]]:
    """The code of each state for each agent, `[S]` each, and what each code is."""

    def each(state):
        given = observe(state)
        if isinstance(given, Mapping):
            given = tuple(given.values())
        if isinstance(given, list) or type(given) is tuple:
            if len(given) != agents:
                raise ValueError(
                    f"observe: gives {len(given)} observations, wanted one for each of {agents} "
                    "agents"
                )
            return tuple(map(clean, given))
        shapes = [jnp.shape(x) for x in jax.tree.leaves(given)]
        if not shapes or any(shape[:1] != (agents,) for shape in shapes):
            raise ValueError(
                f"observe: gives arrays of shapes {[list(s) for s in shapes]}, wanted one "
                f"observation for each of {agents} agents: a tuple of them, or a first axis"
            )
        return tuple(clean(jax.tree.map(lambda x, i=i: x[i], given)) for i in range(agents))

    look = jax.jit(jax.vmap(each))
    views = jax.tree.map(np.asarray, look(found.states))
    if found.varied.any():
        forms = jax.tree.map(np.asarray, look(found.forms))
        for i, (view, form) in enumerate(zip(views, forms, strict=True)):
            apart = rows_of(view) != rows_of(form)
            if apart.any():
                s = int(apart.argmax())
                raise ValueError(
                    f"strip: drops what agent {i} sees: state {s} ({shown(found.states, s)}) looks "
                    "otherwise with what is dropped at "
                    f"({shown(found.forms, s)}); keep it, or leave it out of what is observed"
                )
    codes, seen = [], []
    for view in views:
        rows = rows_of(view)
        _, where, code = np.unique(rows, return_index=True, return_inverse=True)
        kinds = jax.tree.map(lambda x, where=where: x[where], view)
        columns = [x.reshape(len(where), -1) for x in jax.tree.leaves(kinds)]
        order = np.lexsort(np.concatenate(columns, axis=1, dtype=float).T[::-1])
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        codes.append(rank[code.reshape(-1)])
        seen.append(jax.tree.map(lambda x, order=order: x[order], kinds))
    return codes, tuple(seen)


def _local_rewards(
    earned: np.ndarray, codes: list[np.ndarray], seen: tuple[Any, ...], sizes: tuple[int, ...]
) -> tuple[Array, ...] | None:
    """Rewards `[O_i, A_i]` if each is a function of the agent's own pair, else None."""
    if earned.shape[-1] != len(sizes):
        return None
    acted = np.indices(sizes).reshape(len(sizes), -1)  # [N, A]
    tables = []
    for i, (code, size) in enumerate(zip(codes, sizes, strict=True)):
        pair = code[:, None] * size + acted[i]  # [S, A]
        table = np.zeros(len(jax.tree.leaves(seen[i])[0]) * size)
        table[pair] = earned[..., i]
        if (table[pair] != earned[..., i]).any():
            return None
        tables.append(jnp.asarray(table.reshape(-1, size).astype(earned.dtype)))
    return tuple(tables)
