"""One chain over several devices and processes gives the answers of one; nothing hangs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.chains import pieces, sharding
from jaxent.chains.pieces import Cut
from jaxent.models.layouts import product_layout
from jaxent.models.parts import KroneckerKernel, TablePolicy
from tests import sharding_worker

from .tolerances import EXACT

COUNTED = sharding_worker.COUNTED
FEW = ("soft", "typed")  # of them, of few agents
KINDS = ("weakly coupled", "factored", "joint", "exchangeable", *COUNTED)
GIB = 2**30


@cache
def products_of(name):
    """Of few exchangeable agents, on one device."""
    return sharding_worker.products(*sharding_worker.counted(name, *sharding_worker.SMALL))


@cache
def truth(name, grad=False):
    chain, rewards = sharding_worker.chain_of(name)
    found = sharding_worker.answers(chain, rewards)
    found |= sharding_worker.gradient(chain, rewards) if grad else {}
    return {key: np.asarray(x) for key, x in found.items()}


def same(found, name, number, grad=False):
    """All answers, to 1e-12 of their largest entry."""
    alike(found, name, number, truth(name, grad))


def alike(found, name, number, wanted):
    for key, x in wanted.items():
        x, y = np.asarray(x), found[f"{name} {number} {key}"]
        np.testing.assert_allclose(y, x, rtol=0, atol=EXACT * np.abs(x).max(), err_msg=key)


def start(devices, extra=None, **options):
    """A process with so many devices, compiled as here."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sharding_worker", json.dumps(options)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | (extra or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes, limit=600):
    """Their exit codes and what they said; none is left behind."""
    try:
        output = [process.communicate(timeout=limit)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes], output


def answers(path, devices, processes=1):
    with np.load(path) as file:
        found = dict(file)
    assert found.pop("devices") == devices
    assert found.pop("processes") == processes
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Eight devices: the largest array that is sent has this many numbers, of 192 joint pairs and 24
# joint states: the fewest directions of a Krylov space that are asked for are 51.
MOST_SENT = 100


def test_eight_devices_give_the_answers_of_one(tmp_path):
    """And send each other functions of the state, never an array over pairs.

    Of exchangeable agents the products with the chain, of which all answers are made.
    """
    out = tmp_path / "eight.npz"
    work = start(8, out=str(out), names=KINDS[:1], numbers=[8], small=FEW)
    codes, said = finish(work)
    assert codes == [0], said
    assert "rematerialization" not in said[0]  # what is cut is never brought together on the way
    found = answers(out, 8)
    same(found, "weakly coupled", 8)
    for name in FEW:
        alike(found, name, 8, products_of(name))
    sent = json.loads(str(found["weakly coupled 8 moved"]))
    assert {"all-gather", "all-reduce"} <= set(sent)
    assert not {"all-to-all", "collective-permute"} & set(sent)
    assert max(sent["all-gather"], sent["all-reduce"]) <= MOST_SENT


@pytest.mark.slow
@pytest.mark.timeout(3000)  # of compilation, on busy cores
@pytest.mark.parametrize("name", KINDS)
def test_one_two_and_eight_devices(tmp_path, name):
    """Every kind of chain, and gradients."""
    out = tmp_path / "all.npz"
    work = start(8, out=str(out), names=[name], numbers=[1, 2, 8], grad=True)
    codes, said = finish(work, limit=2500)
    assert codes == [0], said
    found = answers(out, 8)
    for number in (1, 2, 8):
        same(found, name, number, grad=True)


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one(tmp_path):
    """Over the loopback; each gets the whole of what is small and its part of what is not."""
    outs = [tmp_path / f"{rank}.npz" for rank in range(2)]
    address = f"127.0.0.1:{free_port()}"
    call = partial(start, 2, names=KINDS[:1], small=FEW, address=address)
    codes, said = finish(*(call(out=str(out), process=k) for k, out in enumerate(outs)))
    assert codes == [0, 0], "\n".join(said)
    for out in outs:
        found = answers(out, 4, 2)
        same(found, "weakly coupled", None)
        for name in FEW:
            alike(found, name, None, products_of(name))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(tmp_path):
    """With an error that says so, within the limit, and nothing hangs."""
    address = f"127.0.0.1:{free_port()}"
    call = partial(start, 2, names=KINDS[:1], address=address, out=str(tmp_path / "never"))
    first = call(process=0, wait=600)
    second = call(process=1, wait=600)
    time.sleep(1)
    begun = time.monotonic()
    while time.monotonic() < begun + 300 and second.poll() is None:
        if (tmp_path / "never.begun.1").exists():
            break
        time.sleep(0.2)
    second.send_signal(signal.SIGKILL)
    codes, said = finish(first, second, limit=120)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert re.search("heartbeat|Gloo|closed by peer|unhealthy|disconnected|died", said[0])


@pytest.mark.parametrize(("name", "depth"), [("weakly coupled", 1), ("factored", 2)])
def test_pieces_give_the_answers_of_the_whole(name, depth):
    """What a chain with too many pairs does is done to a small one; nothing else differs."""
    chain, rewards = sharding_worker.chain_of(name)
    cut = replace(chain, cut=Cut(depth))
    assert not cut.is_small
    for key, x in sharding_worker.answers(cut, rewards).items():
        y = truth(name)[key]
        np.testing.assert_allclose(x, y, rtol=0, atol=EXACT * np.abs(y).max(), err_msg=key)
    mu = jaxent.stationary_distribution(cut)
    found = jaxent.approximation_error(cut, rewards, rewards, discount=0.9, mu=mu)
    whole = jaxent.approximation_error(chain, rewards, rewards, discount=0.9, mu=mu)
    assert found.lower <= whole.value <= found.upper <= 1.01 * found.lower
    assert found.sup_lower <= whole.sup_upper
    assert whole.sup_lower <= found.sup_upper
    assert found.where[0] == whole.where[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weakly coupled", "factored"])
def test_gradients_through_pieces(name):
    chain, rewards = sharding_worker.chain_of(name)
    found = sharding_worker.gradient(replace(chain, cut=Cut(1)), rewards)
    for key, x in found.items():
        np.testing.assert_allclose(x, truth(name, True)[key], rtol=1e-10, atol=EXACT)


def test_a_policy_that_is_none_is_seen_in_pieces():
    chain, _ = sharding_worker.chain_of("weakly coupled")
    for table in (2 * chain.policy.table, -chain.policy.table, jnp.nan * chain.policy.table):
        cut = replace(chain, policy=TablePolicy(table), cut=Cut(1))
        assert not cut.stochastic()


def outline(agents, states=4):
    """A chain of agents with two actions, of shapes alone."""
    chain_shape = (states, 2) * agents
    kernel = KroneckerKernel(
        tuple(jax.ShapeDtypeStruct((2 * states, states), float) for _ in range(agents))
    )
    policy = TablePolicy(jax.ShapeDtypeStruct(chain_shape, float))
    layout = product_layout((2 * states,) * agents)
    return jaxent.PairChain(kernel, policy, layout, pieces.cut_of(kernel, policy, layout))


def test_large_chains_are_cut_and_small_ones_are_not():
    assert outline(7).cut is None
    assert outline(8).cut == Cut(1)
    assert outline(9).cut == Cut(2)
    assert outline(9).num_pairs == 8**9


def test_what_a_bracket_holds_is_a_few_joint_vectors():
    """Beside the policy, the law and the error, less than another one at 8 agents of 8 pairs."""
    chain = outline(8)
    local = [jax.ShapeDtypeStruct((8,), float)] * 8
    mu = jax.ShapeDtypeStruct((chain.num_pairs,), float)

    def error(chain, mu, rewards, local):
        return jaxent.approximation_error(chain, rewards, local, discount=0.9, mu=mu)

    plan = jax.jit(error).lower(chain, mu, local, local).compile().memory_analysis()
    vector = jnp.result_type(float).itemsize * chain.num_pairs
    held = (plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes)
    assert [round(x / vector) for x in held[:2]] == [2, 1]
    assert held[2] < vector


@pytest.mark.parametrize(
    ("shape", "number", "mesh"),
    [
        ((4, 2, 4, 2), 1, (1,)),
        ((4, 2, 4, 2), 2, (2,)),
        ((4, 2, 4, 2), 8, (4, 2)),
        ((4, 2, 4, 2), 16, (4, 2, 2)),
        ((3, 2, 3, 2), 6, (3, 2)),
        ((3, 2, 3, 2), 2, None),
        ((6, 2), 4, None),
    ],
)
def test_devices_lie_along_the_first_states_and_actions(shape, number, mesh):
    assert pieces.mesh_shape(shape, number) == mesh


class Kind:
    """Stands for a device that is not there."""

    process_index, platform = 0, "gpu"

    def __init__(self, kind="some", limit=None):
        self.device_kind, self.limit = kind, limit

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


def test_bad_devices_are_refused_before_anything_runs():
    chain, rewards = sharding_worker.chain_of("weakly coupled")
    with pytest.raises(ValueError, match="devices: wanted some of one kind, got cpu, some"):
        jaxent.shard(chain, [jax.devices()[0], Kind()])
    with pytest.raises(ValueError, match="devices: wanted a list of them or a mesh, got int"):
        jaxent.shard(chain, 3)
    with pytest.raises(ValueError, match="devices: wanted some of one kind, got none"):
        jaxent.shard(chain, [])
    told = r"devices: 3 do not divide .* \[4, 2, 3, 2\]; take 1, 2, 4, 8 of them"
    with pytest.raises(ValueError, match=told):
        jaxent.shard(chain, [Kind()] * 3)
    told = "devices: each of 2 would hold about .* GiB of the chain .* take more devices"
    with pytest.raises(ValueError, match=told):
        jaxent.shard(chain, [Kind(limit=1000)] * 2)
    with pytest.raises(ValueError, match=told):
        jaxent.shard(chain, [Kind()] * 2, memory=1000)
    with pytest.raises(ValueError, match="chain: list is not a PairChain"):
        jaxent.shard([1])
    unknown = replace(chain, kernel=None)
    told = "chain: its NoneType with TablePolicy is not known over several devices"
    with pytest.raises(ValueError, match=told):
        jaxent.shard(unknown)
    one = jaxent.shard(chain, jax.make_mesh((1,), ("x",)))
    assert one.cut is not None
    found = jaxent.q_values(one, rewards, discount=0.9)
    np.testing.assert_allclose(found, truth("weakly coupled")["q"], rtol=EXACT)


@pytest.mark.parametrize(("name", "shape"), [("soft", "4, 2, 35, 4"), ("typed", "2, 2, 4, 2")])
def test_exchangeable_agents_are_refused_likewise(name, shape):
    """By the numbers of devices that fit, and by memory, which falls with their number."""
    chain, _ = sharding_worker.counted(name, *sharding_worker.SMALL)
    told = rf"devices: 3 do not divide .* \[{shape}\]; take 1, 2, 4, 8 of them"
    with pytest.raises(ValueError, match=told):
        jaxent.shard(chain, [Kind()] * 3)
    needed = [sharding.bytes_needed(chain, number) for number in (1, 2, 8)]
    assert needed == sorted(needed, reverse=True)
    with pytest.raises(ValueError, match=r"devices: each of 8 would hold about .* more devices"):
        jaxent.shard(chain, [Kind()] * 8, memory=needed[2] - 1)
    with pytest.raises(ValueError, match="devices: wanted some of one kind, got cpu, some"):
        jaxent.shard(chain, [jax.devices()[0], Kind()])


def test_the_estimate_for_devices_of_80_gib():
    """N agents of 8 pairs on 1, 8 and 64 devices, three quarters of whose memory may be used."""
    for number, fits in {1: 10, 8: 11, 64: 12}.items():
        assert sharding.bytes_needed(outline(fits), number) <= 60 * GIB
        assert sharding.bytes_needed(outline(fits + 1), number) > 60 * GIB


@pytest.mark.slow
def test_what_a_device_holds_falls_with_their_number(tmp_path):
    """At 7 agents of 8 pairs: by the compiled program, never more than the estimate."""
    out = tmp_path / "large.npz"
    codes, said = finish(start(8, out=str(out), names=[], numbers=[1, 2, 8], agents=7))
    assert codes == [0], said
    held = {}
    for number in (1, 2, 8):
        sent = json.loads(str(answers(out, 8)[f"large {number} moved"]))
        *lasting, temporary = held[number] = sent["held"]
        assert sum(lasting) + temporary <= sharding.bytes_needed(outline(7), number, "cpu")
        # Functions of the 16384 joint states are sent, arrays over the 2 million pairs are not.
        assert max(sent.get("all-gather", 0), sent.get("all-reduce", 0)) <= 4**7
        assert not {"all-to-all", "collective-permute"} & set(sent)
        # What comes and goes: the share of one array over pairs and of a Krylov basis, and a few
        # pieces, of 8^6 pairs whatever the number.
        assert temporary <= 8 * ((8**7 + 60 * 4**7) // number + 6 * 8**6)
    for number in (2, 8):
        share = np.array(held[number][:2]) / np.array(held[1][:2])
        np.testing.assert_allclose(share, 1 / number, rtol=0.01)


@pytest.mark.slow
def test_what_a_device_holds_of_exchangeable_agents_falls_likewise(tmp_path):
    """By the compiled program of a law and values, which is within the estimate."""
    out = tmp_path / "held.npz"
    codes, said = finish(start(8, out=str(out), names=[], numbers=[1, 2, 8], large_of=COUNTED))
    assert codes == [0], said
    found = answers(out, 8)
    for name in COUNTED:
        whole = found[f"{name} 1 held"]
        for number in (1, 2, 8):
            held = found[f"{name} {number} held"]
            assert held.sum() <= found[f"{name} {number} estimate"]
            # Beside what is cut: the smaller laws, the agents' kernels, functions of the state.
            assert held[0] <= 1.2 * whole[0] / number
            assert held.sum() <= 2.5 * whole.sum() / number
