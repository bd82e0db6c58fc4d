r"""One chain over many devices.

Of a chain with a kernel for each agent, the policy's table and every array over joint pairs are cut
into as many blocks as there are devices, along the first states and actions; what is small, the
agents' kernels, every device has. Products with the chain then go over each device's own pieces
(`pieces`). Of a dense kernel the rows are cut, of the exact chain of exchangeable agents the laws
of the last-served ones, which are nearly all that it holds.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..numerics.memory import device_memory
from .pair_chain import PairChain, check_chain
from .pieces import (
    Cut,
    can_be_cut,
    depth_of,
    mesh_of,
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


@runtime_checkable
class _Spread(Protocol):
    """A kernel or a policy that says how it lies on a mesh of devices."""

    def spread(self, axes: Sequence[str], /) -> Any:
        """A pytree like itself, with a PartitionSpec in the place of each array."""
        ...


@runtime_checkable
class _SpreadOver(Protocol):
    """A kernel that is filled up so that a number of devices divides it."""

    def spread_over(self, axes: Sequence[str], number: int, /) -> tuple[Any, Any]:
        """Itself, filled up, and a pytree like it of PartitionSpecs."""
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
            `ExogenousMDP`), of a joint kernel, or of exchangeable agents under a priority.
        devices: of one kind, or a mesh, whose devices are taken in its order; all, of all
            processes, if not given. Their number must be S_0, S_0 A_0, S_0 A_0 S_1, .. or one of
            these but for its last factor, of which a divisor is enough.
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
        [1.83 4.33 4.83 7.33]
    """
    check_chain(chain)
    given = jax.devices() if devices is None else devices
    flat = np.array(given.devices if isinstance(given, Mesh) else list(given)).reshape(-1)
    kinds = sorted({device.device_kind for device in flat})
    if len(kinds) != 1:
        raise ValueError(f"devices: wanted some of one kind, got {', '.join(kinds) or 'none'}")
    number = flat.size
    if isinstance(chain.kernel, _SpreadOver):
        mesh = Mesh(flat, ("laws",))
        kernel, spec = chain.kernel.spread_over(mesh.axis_names, number)
        made = replace(chain, kernel=kernel)
        whole = jax.tree.map(lambda _: PartitionSpec(), chain.policy)
        _check_memory(made, spec, whole, flat, memory, _STATES * chain.num_states)
        return _placed(made, spec, whole, mesh, None)
    policy = chain.policy
    shape = getattr(policy, "pair_shape", (chain.num_states, chain.num_pairs // chain.num_states))
    if not isinstance(chain.kernel, _Spread) or not isinstance(policy, _Spread):
        raise ValueError(
            f"chain: its {type(chain.kernel).__name__} with {type(policy).__name__} is not known "
            "over several devices; agents with kernels of their own are, and exchangeable ones "
            "under a priority"
        )
    if mesh_shape(shape, number) is None:
        numbers = ", ".join(map(str, numbers_that_divide(shape, max(2 * number, 8))))
        raise ValueError(
            f"devices: {number} do not divide the joint pairs, whose first states and actions are "
            f"{list(shape[:4])}; take {numbers} of them"
        )
    mesh = mesh_of(flat, shape)
    spec, split = chain.kernel.spread(mesh.axis_names), policy.spread(mesh.axis_names)
    cut = None
    if can_be_cut(chain.kernel, policy, chain.layout):
        least = -(-mesh.devices.ndim // 2)
        if least < len(chain.sizes):
            cut = Cut(max(depth_of(chain.sizes, flat[0].platform), least), mesh)
    piece = prod(chain.sizes[cut.depth :]) if cut else chain.num_pairs // number
    vectors = _VECTORS * chain.num_pairs // number + _PIECES * piece
    _check_memory(chain, spec, split, flat, memory, vectors + _STATES * chain.num_states)
    return _placed(chain, spec, split, mesh, cut)


def _placed(chain: PairChain, kernel: Any, policy: Any, mesh: Mesh, cut: Cut | None) -> PairChain:
    """The chain with its arrays on the devices of the mesh, the layout's on all of them."""

    def put(x: Array, spec: PartitionSpec) -> Array:
        sharding = NamedSharding(mesh, spec)
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    return PairChain(
        jax.tree.map(put, chain.kernel, kernel),
        jax.tree.map(put, chain.policy, policy),
        jax.tree.map(lambda x: put(x, PartitionSpec()), chain.layout),
        cut,
    )


def _check_memory(
    chain: PairChain, kernel: Any, policy: Any, devices: np.ndarray, memory: int | None, more: int
) -> None:
    """Raise if a device's part of the chain and so many numbers more do not fit in it."""
    arrays = jax.tree.leaves((chain.kernel, chain.policy))
    specs = jax.tree.leaves((kernel, policy), is_leaf=lambda x: isinstance(x, PartitionSpec))
    held = sum(
        x.nbytes // (devices.size if any(axis is not None for axis in spec) else 1)
        for x, spec in zip(arrays, specs, strict=True)
    )
    needed = held + sum(x.nbytes for x in jax.tree.leaves(chain.layout))
    needed += more * np.dtype(chain.dtype).itemsize
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
