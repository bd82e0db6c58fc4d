r"""One chain over many devices.

Of a chain with a kernel for each agent, the policy's table and every array over joint pairs are cut
into as many blocks as there are devices, along the first states and actions; what is small, the
agents' kernels, every device has. Products with the chain then go over each device's own pieces
(`pieces`). Of a dense kernel the rows are cut. Of the exact chain of exchangeable agents under a
priority only the laws of the last-served ones are, which are nearly all that it holds; under other
policies everything over pairs, along the tagged agents' states and actions, and the largest law of
next counts by its rows. A product with that chain is cut as the law is and then exchanged for one
that is cut as pairs are, so that no device holds all of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..numerics.memory import device_memory
from .pair_chain import PairChain, check_chain
from .pieces import (
    Cut,
    can_be_cut,
    depth_of,
    mesh_shape,
    numbers_that_divide,
)

Array = jax.Array
Devices = Sequence[jax.Device] | Mesh  # pyright: ignore[reportInvalidTypeForm]

# Functions of the joint state that a solve holds at once: a Krylov basis and a few more.
_STATES = 60
# Arrays over pairs beside the policy: a law, an error or values, and one that comes or goes.
_VECTORS = 3
# Arrays of the size of a piece that a product takes.
_PIECES = 6
# Arrays of the size of a kernel that is formed as a matrix.
_MATRICES = 4


@runtime_checkable
class _Spread(Protocol):
    """A kernel or a policy that says how it lies on a mesh of devices."""

    def spread(self, axes: Sequence[str], /) -> Any:
        """A pytree like itself, with a PartitionSpec in the place of each array."""
        ...


@runtime_checkable
class _Filled(Protocol):
    """A kernel with arrays by which no pair is told, filled up so that any number divides them."""

    def filled(self, number: int, /) -> Any:
        """Itself, with arrays that so many devices divide."""
        ...

    def at_work(self, number: int, /) -> int:
        """Numbers that a product takes on each of so many devices, about."""
        ...

    def on(self, mesh: Mesh, /) -> Any:
        """Itself, that works over these devices, or how it lies there."""
        ...


@runtime_checkable
class _SpreadOver(Protocol):
    """A kernel that is filled up so that a number of devices divides it."""

    def spread_over(self, axes: Sequence[str], number: int, /) -> tuple[Any, Any]:
        """Itself, filled up, and a pytree like it of PartitionSpecs."""
        ...

    def at_work(self, number: int, /) -> int:
        """Numbers that a product takes on each of so many devices, about."""
        ...


def shard(
    chain: PairChain, devices: Devices | None = None, *, memory: int | None = None
) -> PairChain:
    """The same chain over many devices, of which each holds a part; answers are the same.

    `stationary_distribution`, `q_values`, `local_q_values` and `approximation_error` take it as any
    other chain, and give arrays over joint pairs `[J]` that lie on the devices likewise. With
    several processes (`jax.distributed`) each makes the same calls with the same values.

    The chain itself is made in one place before: where it does not fit in one device make it on the
    host, `with jax.default_device(jax.devices("cpu")[0])`.

    Args:
        chain: of agents with kernels of their own (`WeaklyCoupledMDP`, `FactoredMDP`,
            `ExogenousMDP`), of a joint kernel, or of exchangeable agents (`exchangeable_chain`).
        devices: of one kind, or a mesh, whose devices are taken in its order; all, of all
            processes, if not given. Their number must be S_0, S_0 A_0, S_0 A_0 S_1, .. or one of
            these but for its last factor, of which a divisor is enough. Exchangeable agents under a
            priority take any number; under other policies the tagged agents' states and actions
            count, then the configurations of the others.
        memory: bytes that may be used on a device; what the device has if not given.

    Raises:
        ValueError: for devices of several kinds, a number that does not divide the pairs, with the
            numbers that do, a chain that would take more memory on a device than there is, with the
            estimate, and for a kernel that cannot be cut.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> chain = jaxent.pair_chain(*jaxent.example_1())
        >>> spread = jaxent.shard(chain, jax.devices()[:1])
        >>> print(jaxent.q_values(spread, [[[0, 1], [2, 3]]] * 2, discount=0.5)[:4].round(2))
        [1.93 3.24 4.35 5.8 ]
    """
    check_chain(chain)
    given = jax.devices() if devices is None else devices
    if not isinstance(given, (Mesh, Sequence, np.ndarray)):
        raise ValueError(
            f"devices: wanted a list of them or a mesh, got {type(given).__name__}; for the first "
            "n, jax.devices()[:n]"
        )
    flat = np.array(given.devices if isinstance(given, Mesh) else list(given)).reshape(-1)
    kinds = sorted({device.device_kind for device in flat})
    if len(kinds) != 1:
        raise ValueError(f"devices: wanted some of one kind, got {', '.join(kinds) or 'none'}")
    plan = _plan(chain, flat, flat[0].platform)
    _check_memory(plan.needed, flat, memory)
    return _placed(plan)


class _Plan(NamedTuple):
    """Where the arrays of a chain go.

    Attributes:
        chain: with a kernel that the number of devices divides.
        kernel: PartitionSpecs of its arrays.
        policy: likewise.
        layout: likewise.
        axes: names of the axes of the mesh.
        devices: in its shape.
        depth: of the pieces; 0 where products with the chain are not cut into any.
        needed: bytes on each device, about.
    """

    chain: PairChain
    kernel: Any
    policy: Any
    layout: Any
    axes: tuple[str, ...]
    devices: np.ndarray
    depth: int
    needed: int


def _plan(chain: PairChain, devices: np.ndarray, platform: str) -> _Plan:
    number, depth = devices.size, 0
    numbers = _STATES * chain.num_states
    if isinstance(chain.kernel, _SpreadOver):
        axes = ("laws",)
        numbers += _VECTORS * chain.num_pairs + chain.kernel.at_work(number)
        kernel, spec = chain.kernel.spread_over(axes, number)
        chain = replace(chain, kernel=kernel)
        policy, layout = (_whole(part) for part in (chain.policy, chain.layout))
    elif isinstance(chain.kernel, _Spread) and isinstance(chain.policy, _Spread):
        shape = getattr(chain.policy, "pair_shape", (chain.num_states, 1))
        along = mesh_shape(shape, number)
        if along is None:
            numbers = ", ".join(map(str, numbers_that_divide(shape, max(2 * number, 8))))
            raise ValueError(
                f"devices: {number} do not divide the joint pairs, whose first states and actions "
                f"are {list(shape[:4])}; take {numbers} of them"
            )
        axes = tuple(f"pairs{k}" for k in range(len(along)))
        devices = devices.reshape(along)
        if isinstance(chain.kernel, _Filled):
            chain = replace(chain, kernel=chain.kernel.filled(number))
        spec, policy, layout = (
            part.spread(axes) if isinstance(part, _Spread) else _whole(part)
            for part in (chain.kernel, chain.policy, chain.layout)
        )
        least = -(-len(along) // 2)
        if can_be_cut(chain.kernel, chain.policy, chain.layout) and least < len(chain.sizes):
            depth = max(depth_of(chain.sizes, platform), least)
        piece = prod(chain.sizes[depth:]) if depth else chain.num_pairs
        work = chain.kernel.at_work if isinstance(chain.kernel, _Filled) else None
        numbers += work(number) if work else _PIECES * piece
        numbers += _VECTORS * chain.num_pairs // number
        if chain.is_small and not depth:  # its matrix is formed
            numbers += _MATRICES * chain.num_states * chain.num_pairs
    else:
        raise ValueError(
            f"chain: its {type(chain.kernel).__name__} with {type(chain.policy).__name__} is not "
            "known over several devices; agents with kernels of their own are, and exchangeable "
            "ones"
        )
    lie = dict(zip(axes, devices.shape, strict=True))
    arrays = jax.tree.leaves((chain.kernel, chain.policy, chain.layout))
    specs = jax.tree.leaves((spec, policy, layout), is_leaf=lambda x: isinstance(x, PartitionSpec))
    numbers += sum(x.size // _blocks(at, lie) for x, at in zip(arrays, specs, strict=True))
    needed = numbers * np.dtype(chain.dtype).itemsize
    return _Plan(chain, spec, policy, layout, axes, devices, depth, needed)


def _whole(part: Any) -> Any:
    """How it lies where every device has all of it."""
    return jax.tree.map(lambda _: PartitionSpec(), part)


def _blocks(spec: PartitionSpec, lie: dict[str, int]) -> int:
    """Into how many blocks an array is cut that lies so, with so many devices along each axis."""
    named = [axes if isinstance(axes, tuple) else (axes,) for axes in spec if axes is not None]
    return prod(lie[axis] for axes in named for axis in axes)


def _placed(plan: _Plan) -> PairChain:
    """The chain with its arrays on the devices of the mesh."""
    mesh = Mesh(plan.devices, plan.axes)

    def put(x: Array, spec: PartitionSpec) -> Array:
        sharding = NamedSharding(mesh, spec)
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    kernel, spec = plan.chain.kernel, plan.kernel
    if isinstance(kernel, _Filled):
        kernel, spec = kernel.on(mesh), spec.on(mesh)
    return PairChain(
        jax.tree.map(put, kernel, spec),
        jax.tree.map(put, plan.chain.policy, plan.policy),
        jax.tree.map(put, plan.chain.layout, plan.layout),
        Cut(plan.depth, mesh) if plan.depth else None,
    )


def bytes_needed(chain: PairChain, number: int, platform: str = "gpu") -> int:
    """What each of so many devices would hold of a chain and of what is solved for, about.

    The number must divide its pairs. The chain may be one of shapes alone.
    """
    return _plan(chain, np.full(number, None), platform).needed


def _check_memory(needed: int, devices: np.ndarray, memory: int | None) -> None:
    """Raise if a device's part does not fit in it."""
    here = [device for device in devices if device.process_index == jax.process_index()]
    limit = memory
    if limit is None and here:
        limit = device_memory(here[0])
        if here[0].platform == "cpu":  # the devices of a host share its memory
            limit //= len(here)
    if limit is not None and needed > limit:
        raise ValueError(
            f"devices: each of {devices.size} would hold about {needed / 2**30:.3g} GiB of the "
            f"chain and of what is solved for, of {limit / 2**30:.3g} that may be counted on; take "
            "more devices, or fewer agents"
        )
