"""Every state that can be reached, breadth-first: states are numbered by their bytes.

A state is a pytree; two states are one if all bytes of what tells them apart are equal (their key,
the state itself unless a caller drops some of it). States are looked into a chunk at a time, padded
to one size, so that what expands them is compiled once. Numbers are given on the host, by a
dictionary of bytes: equal bytes are compared, not a hash of them alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Letters of a state that is shown in a message.
_SHOWN = 120
# Fields of a state that are named where there are too many states.
_FIELDS = 4
# Random walks on which states are compared with other forms of them, and their steps.
_WALKERS, _WALK = 32, 200


class Expanded(NamedTuple):
    """What a chunk of C states leads to, K outcomes for each of A joint actions; NumPy on the host.

    Attributes:
        states: next states, leaves `[C, A, K, ..]`.
        keys: what tells them apart, leaves `[C, A, K, ..]`.
        weights: of the outcomes, `[C, A, K]`.
        paid: rewards, `[C, A, K, N]`, or `[C, A, 1, N]` where they are the pair's.
        ended: whether the game ends, bool `[C, A, K]`.
    """

    states: Any
    keys: Any
    weights: Any
    paid: Any
    ended: Any


class Reached(NamedTuple):
    """The states found, S of them, and what they lead to.

    Attributes:
        states: leaves `[S, ..]`, in the order in which they were found.
        to: next states, int `[S, A, K]`; -1 where the game ends.
        weights: of the outcomes, `[S, A, K]`; 0 where a pair has fewer.
        paid: rewards, `[S, A, K, N]` or `[S, A, 1, N]`.
        first: numbers of the states that the search began with.
        forms: of each state, the form in which it was met last, leaves `[S, ..]`.
        varied: whether that form has other bytes than the state, bool `[S]`.
    """

    states: Any
    to: np.ndarray
    weights: np.ndarray
    paid: np.ndarray
    first: np.ndarray
    forms: Any
    varied: np.ndarray


class _Numbers(dict):
    """The number of each key, the next free one where it is new."""

    def __missing__(self, key: bytes) -> int:
        self[key] = number = len(self)
        return number

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of rows of bytes, `[M]`."""
        return np.fromiter(map(self.__getitem__, rows.tolist()), np.int64, len(rows))


def rows_of(tree: Any) -> np.ndarray:
    """The bytes of each entry of leaves `[M, ..]`, as `[M]` things that can be compared."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    count = len(leaves[0])
    columns = [
        np.ascontiguousarray(x).reshape(count, x.size // max(count, 1)).view(np.uint8)
        for x in leaves
        if x.size
    ]
    rows = np.concatenate([*columns, np.zeros((count, 1), np.uint8)], axis=1)
    return rows.view(f"V{rows.shape[1]}").reshape(-1)


def clean(tree: Any) -> Any:
    """A state whose bytes say what it is: keys as numbers, and no 0 with a sign."""

    def leaf(x: Any) -> Array:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(x)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.where(x == 0, jnp.zeros_like(x), x)
        return x

    return jax.tree.map(leaf, tree)


def shown(states: Any, place: int) -> str:
    """One of the states `[M, ..]`, on one line."""
    named = jax.tree_util.tree_flatten_with_path(states)[0]
    told = ", ".join(
        f"{jax.tree_util.keystr(path)}={np.asarray(leaf)[place].tolist()}".lstrip("=")
        for path, leaf in named
    )
    return told if len(told) <= _SHOWN else told[: _SHOWN - 3] + "..."


class _Rows:
    """Leaves `[M, ..]` to which rows are added; room is doubled when there is none left."""

    def __init__(self, tree: Any):
        self.size = 0
        self.tree = jax.tree.map(lambda x: np.empty_like(x, shape=(16, *x.shape[1:])), tree)

    def put(self, index: np.ndarray, given: Any) -> None:
        """Write rows at these places, the last of them where a place is named twice."""
        self.size = max(self.size, int(index.max(initial=-1)) + 1)

        def leaf(held: np.ndarray, new: np.ndarray) -> np.ndarray:
            if self.size > len(held):
                rows = max(self.size - len(held), len(held))
                held = np.concatenate([held, np.empty_like(held, shape=(rows, *held.shape[1:]))])
            held[index] = new
            return held

        self.tree = jax.tree.map(leaf, self.tree, given)

    def get(self, index: np.ndarray | slice) -> Any:
        """Rows at these places."""
        return jax.tree.map(lambda x: x[index], self.tree)


def search(
    first: Any,
    first_keys: Any,
    expand: Callable[[Any, np.ndarray], Expanded],
    *,
    chunk: int,
    max_states: int,
    name: Callable[[int], str] = str,
    sampled: bool = False,
) -> Reached:
    """All states that can be reached from the first ones, leaves `[L, ..]`.

    Args:
        first: where the search begins.
        first_keys: what tells these apart, leaves `[L, ..]`.
        expand: states of a chunk `[C, ..]` and their numbers `[C]` to what they lead to.
        chunk: C.
        max_states: more are refused.
        name: of a joint action, for messages.
        sampled: whether weights are counts of samples.

    Raises:
        ValueError: for more states than `max_states`, a state with a NaN, and keys that drop what
            matters: each state is compared with the form in which it was met last.
    """
    numbers, first = _Numbers(), jax.tree.map(np.asarray, first)
    states, forms = _Rows(first), _Rows(first)
    varied = np.zeros(0, bool)

    def enter(rows: Any, keys: Any, place: Callable[[int], str]) -> np.ndarray:
        """Numbers of states met, those that are new entered."""
        nonlocal varied
        _check_numbers(rows, place)
        known = len(numbers)
        ids = numbers.of(rows_of(keys))
        fresh, where = np.unique(ids[::-1], return_index=True)  # the last form of each
        forms.put(fresh, jax.tree.map(lambda x: x[::-1][where], rows))
        fresh, where = np.unique(ids, return_index=True)  # the first
        where, fresh = where[fresh >= known], fresh[fresh >= known]
        states.put(fresh, jax.tree.map(lambda x: x[where], rows))
        return ids

    begun = enter(first, first_keys, lambda m: f"initial[{m}]")
    parts: list[tuple[np.ndarray, ...]] = []
    done = 0
    while done < len(numbers):
        if len(numbers) > max_states:
            raise ValueError(_too_many(states.get(slice(states.size)), done, max_states))
        asked = np.minimum(np.arange(done, done + chunk), len(numbers) - 1)  # padded by the last
        out = expand(states.get(asked), asked)
        real = min(chunk, len(numbers) - done)
        weights, ended, paid = (x[:real] for x in (out.weights, out.ended, out.paid))
        live = (weights > 0) & ~ended
        to = np.where(ended, -1, asked[:real, None, None])
        places = np.argwhere(live)

        def place(m: int, places: np.ndarray = places, done: int = done) -> str:
            c, a, _ = places[m]
            return f"a next state of state {done + c} under {name(int(a))}"

        after, keys = jax.tree.map(lambda x, n=real, m=live: x[:n][m], (out.states, out.keys))
        if len(places):
            to[live] = enter(after, keys, place)
        parts.append(_merged(to, weights, paid))
        done += real
    every = slice(states.size)
    found = states.get(every)
    varied = rows_of(found) != rows_of(forms.get(every))
    to, weights, paid = (_joined([part[k] for part in parts]) for k in range(3))
    reached = Reached(found, to, weights, paid, begun, forms.get(every), varied)
    if varied.any():
        _check_forms(reached, numbers, expand, chunk, name, sampled)
    return reached


def _merged(to: np.ndarray, weights: np.ndarray, paid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Outcomes of a pair that are the same, next state and reward, as one; those of no weight go.

    Of what is left the first outcomes of each pair hold it, and there are no more than needed.
    """
    shape, each = to.shape, paid.shape[2] > 1
    if shape[2] == 1:
        return to, weights, paid
    code = to.reshape(-1, shape[2])
    weight = weights.reshape(code.shape)
    if each:
        same = _Numbers()
        flat = np.broadcast_to(paid, (*shape, paid.shape[3])).reshape(code.size, -1)
        code = same.of(rows_of((code.reshape(-1), flat + 0.0))).reshape(code.shape)
    code = np.where(weight > 0, code, np.iinfo(np.int64).max)  # last
    order = np.argsort(code, axis=1, kind="stable")
    code, weight = (np.take_along_axis(x, order, 1) for x in (code, weight))
    run = np.cumsum(np.diff(code, axis=1, prepend=code[:, :1]) != 0, axis=1)  # number of outcome
    width = int(np.where(weight > 0, run, 0).max()) + 1
    used = weight > 0
    row, place = np.nonzero(used)
    cell = row * width + run[used]
    kept = np.bincount(cell, weight[used], len(code) * width).astype(weight.dtype)
    source = np.zeros((len(code), width), np.int64)
    source[row, run[used]] = order[row, place]
    shorter = (*shape[:2], width)
    source, kept = source.reshape(shorter), kept.reshape(shorter)
    to = np.take_along_axis(to, source, 2)
    if each:
        paid = np.take_along_axis(paid, source[..., None], 2)
    return to, kept, paid


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Parts `[C, A, K, ..]` one after the other; a part with fewer outcomes repeats the first."""
    width = max(part.shape[2] for part in parts)

    def wide(part: np.ndarray) -> np.ndarray:
        lack = width - part.shape[2]
        if not lack:
            return part
        fill = part[:, :, :1] if part.dtype.kind == "i" or part.ndim == 4 else 0 * part[:, :, :1]
        return np.concatenate([part, np.repeat(fill, lack, axis=2)], axis=2)

    return np.concatenate([wide(part) for part in parts])


def _check_forms(
    reached: Reached,
    numbers: _Numbers,
    expand: Callable[[Any, np.ndarray], Expanded],
    chunk: int,
    name: Callable[[int], str],
    sampled: bool,
) -> None:
    """Raise if a state and another form of it do not lead to the same.

    Looked at are the form of each state that was met last and those met on random walks, for a
    clock that ends the game is far where a state is met first.

    Where a pair has several outcomes in a model that is sampled, two forms would differ by chance:
    there only what is sure is compared.
    """

    def compared(asked: np.ndarray, forms: Any, size: int) -> Expanded:
        padded = np.minimum(np.arange(size), len(asked) - 1)
        held = jax.tree.map(lambda x: x[padded], forms)
        out = jax.tree.map(lambda x: x[: len(asked)], expand(held, asked[padded]))
        rows = rows_of(jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), out.keys))
        to = np.array([numbers.get(row, -2) for row in rows.tolist()]).reshape(out.weights.shape)
        to = np.where(out.ended, -1, to)
        wrong = _apart(reached, asked, to, out, sampled)
        if wrong.any():
            c, a = np.argwhere(wrong)[0].tolist()
            s = int(asked[c])
            raise ValueError(
                f"strip: drops what matters: state {s} ({shown(reached.states, s)}) "
                f"and the same as ({shown(forms, c)}) lead elsewhere or pay otherwise under "
                f"{name(int(a))}; keep the field that does it"
            )
        return out._replace(keys=to)

    varied = np.flatnonzero(reached.varied)
    for lo in range(0, len(varied), chunk):
        asked = varied[lo : lo + chunk]
        compared(asked, jax.tree.map(lambda x, asked=asked: x[asked], reached.forms), chunk)
    rng = np.random.default_rng(0)
    walkers = min(_WALKERS, chunk)
    # Steps are many and of few states: worth a program of that size unless it is near a chunk.
    size = walkers if 2 * walkers < chunk else chunk
    begun = rng.choice(reached.first, walkers)
    asked, forms = begun, jax.tree.map(lambda x: x[begun], reached.states)
    every = np.arange(walkers)
    for _ in range(_WALK):
        out = compared(asked, forms, size)
        law = out.weights / out.weights.sum(-1, keepdims=True)
        acted = rng.integers(law.shape[1], size=walkers)
        drawn = (law[every, acted].cumsum(-1) < rng.random((walkers, 1))).sum(-1)
        drawn = np.minimum(drawn, law.shape[2] - 1)
        asked = out.keys[every, acted, drawn]
        ended = asked < 0
        asked = np.where(ended, begun, asked)
        moved = jax.tree.map(lambda x, a=acted, d=drawn: x[every, a, d], out.states)
        forms = jax.tree.map(
            lambda x, y, e=ended: np.where(e.reshape(-1, *[1] * (y.ndim - 1)), x[begun], y),
            reached.states,
            moved,
        )


def _apart(
    reached: Reached, asked: np.ndarray, to: np.ndarray, out: Expanded, sampled: bool
) -> np.ndarray:
    """Which pairs of other forms of the states asked lead or pay otherwise, bool `[C, A]`."""
    mine = _law(to, out.weights, out.paid)
    other = _law(reached.to[asked], reached.weights[asked], reached.paid[asked])
    width = max(x[1].shape[2] for x in (mine, other))
    to, law = (
        np.stack(
            [np.pad(x[k], [(0, 0), (0, 0), (0, width - x[k].shape[2])]) for x in (mine, other)]
        )
        for k in (0, 1)
    )
    total = law.sum(-1, keepdims=True)
    eps = 64 * width * np.finfo(law.dtype).eps
    largest = np.abs(other[2]).max(initial=0)
    apart = ((to[0] != to[1]) & (law > 0).any(0)).any(-1)
    apart |= (np.ptp(law / total, axis=0) > eps).any(-1)
    apart |= (np.abs(mine[2] - other[2]) > eps * largest).any(-1)
    return apart & ((law.max(-1) == total[..., 0]).all(0) | (not sampled))


def _law(to: np.ndarray, weights: np.ndarray, paid: np.ndarray) -> tuple[np.ndarray, ...]:
    """Next states in order, their weights, and the mean reward, of each pair."""
    mean = (weights[..., None] * paid).sum(2) / weights.sum(-1)[..., None]
    to, weights, _ = _merged(to, weights, paid[:, :, :1])
    return np.where(weights > 0, to, 0), weights, mean


def _check_numbers(states: Any, place: Callable[[int], str]) -> None:
    """Raise at the first state that holds a NaN."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(states)[0]:
        if leaf.dtype.kind not in "fc":
            continue
        bad = np.isnan(leaf.reshape(len(leaf), -1)).any(1)
        if bad.any():
            m = int(bad.argmax())
            field = jax.tree_util.keystr(path) or "it"
            raise ValueError(f"states: {place(m)} has a NaN in {field} ({shown(states, m)})")


def _too_many(states: Any, done: int, max_states: int) -> str:
    """Where the search stood, and what to leave out of states."""
    named = jax.tree_util.tree_flatten_with_path(states)[0]
    found = len(named[0][1])
    counts = [len(np.unique(rows_of([leaf]))) for _, leaf in named]
    order = np.argsort(counts, kind="stable")[::-1][:_FIELDS]
    told = ", ".join(
        f"{jax.tree_util.keystr(named[k][0]) or 'the state'} takes {counts[k]}" for k in order
    )
    return (
        f"max_states: {found} states met after {done} were looked into, wanted at most "
        f"{max_states}; of all fields most values: {told}; leave out a clock, a key or what is of "
        "no use with strip=, else raise max_states"
    )
