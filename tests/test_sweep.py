"""Sweeps: the table, bits that do not depend on devices or interruptions, and what is refused."""

import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent.sweeps import checkpoint, grid, lock
from tests import sweep_worker

from .tolerances import EXACT, by_precision

GRID = sweep_worker.EXPERIMENTS["small"][1]
KEY = jax.random.key(7)
SMALL = partial(jaxent.sweep, KEY, sweep_worker.small, GRID, chunk=8)


@pytest.fixture(scope="module")
def whole():
    """The sweep on one device, in one go."""
    return SMALL()


def same(a, b):
    """Bit for bit."""
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A folder with a sweep that was interrupted after its first save."""
    folder = tmp_path / "begun"
    with monkeypatch.context() as patch:
        save = checkpoint.save_npz

        def save_and_stop(path, arrays):
            save(path, arrays)
            patch.setattr(checkpoint, "save_npz", save)
            raise KeyboardInterrupt

        patch.setattr(checkpoint, "save_npz", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            SMALL(folder=folder)
    return folder


def test_product_grid():
    grid = jaxent.product_grid(size=[60, 90], seed=range(3))
    assert grid["size"].tolist() == [60, 60, 60, 90, 90, 90]
    assert grid["seed"].tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="seed: wanted a list of values"):
        jaxent.product_grid(size=[1], seed=3)


def test_table_is_the_loop_over_points(whole):
    """One point at a time, with the key that the docstring says."""
    assert list(whole) == ["scale", "steps", "fit.0", "fit.1", "path"]
    one = jax.jit(sweep_worker.small)
    for p in range(len(GRID["scale"])):
        point = {name: jnp.asarray(column[p]) for name, column in GRID.items()}
        found = one(jax.random.fold_in(KEY, p), point)
        np.testing.assert_allclose(whole["path"][p], found["path"], rtol=EXACT, atol=EXACT)
        np.testing.assert_allclose(whole["fit.1"][p], found["fit"][1], rtol=EXACT)
        assert whole["scale"][p] == point["scale"]


def test_the_key_may_still_come_last(whole):
    with pytest.warns(DeprecationWarning, match="sweep: the key comes first now"):
        same(jaxent.sweep(sweep_worker.small, GRID, key=KEY, chunk=8), whole)


def test_all_points_share_one_compilation():
    """Traced twice, to see what it returns and to compile it, however many points there are."""

    def experiment(key, point):
        return point["size"] + jax.random.uniform(key)

    chex.clear_trace_counter()
    counted = chex.assert_max_traces(experiment, n=2)
    found = jaxent.sweep(KEY, counted, {"size": np.arange(60.0)}, chunk=4)
    assert found["value"].shape == (60,)


def test_chosen_chunk_and_folder(tmp_path, whole):
    """Progress adds up; the header says what ran; a finished sweep is only read."""
    told = []
    function = lambda key, point: 2.0 * point["seed"] + 0 * jax.random.uniform(key)  # noqa: E731
    grid = {"seed": np.arange(45)}
    found = jaxent.sweep(KEY, function, grid, folder=tmp_path, progress=told.append)
    np.testing.assert_array_equal(found["value"], 2.0 * np.arange(45))
    assert told[0] == 0
    assert sum(told) == 45
    header = json.loads((tmp_path / "sweep.json").read_text())
    assert header["chunk"] == 4  # the power of 2 below an eighth
    assert header["jax"] == jax.__version__
    assert header["key"][1:] == [0, 7]
    before = contents(tmp_path)
    again = jaxent.sweep(KEY, function, grid, folder=tmp_path)
    same(found, again)
    assert contents(tmp_path) == before
    assert set(before) == {"sweep.json", "sweep.npz", "sweep.lock"}
    assert not before["sweep.lock"]


def test_interrupted_sweep_goes_on(begun, whole):
    with np.load(begun / "sweep.npz") as file:
        assert 0 < file["done"].sum() < len(file["done"])
        kept = int(file["done"].sum())
    told = []
    same(SMALL(folder=begun, progress=told.append), whole)
    assert told[0] == kept
    assert len(json.loads((begun / "sweep.json").read_text())["runs"]) == 2


def other_function(key, point):
    found = sweep_worker.small(key, point)
    return found | {"path": 2 * found["path"]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"grid": GRID | {"scale": 2 * GRID["scale"]}}, "grid"),
        ({"key": jax.random.key(8)}, r"key \['threefry2x32', 0, 7\] there"),
        ({"function": other_function}, "function small there, other_function here"),
        ({"chunk": 4}, "chunk 8 there, 4 here"),
    ],
)
def test_folder_of_another_sweep_is_left(begun, change, match):
    before = contents(begun)
    call = {"function": sweep_worker.small, "grid": GRID, "key": KEY, "chunk": 8} | change
    with pytest.raises(ValueError, match=f"of another sweep.*{match}.*left as it is"):
        jaxent.sweep(**call, folder=begun)
    assert contents(begun) == before


def break_header(folder):
    (folder / "sweep.json").write_text("{ not json")


def other_json(folder):
    (folder / "sweep.json").write_text('{"seed": 0}')


def nonsense(**change):
    """A header with other values under the names that a header has."""

    def damage(folder):
        path = folder / "sweep.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    damage.__name__ = "_".join(f"{name} {str(value)[:9]}" for name, value in change.items())
    return damage


def deep_header(folder):
    (folder / "sweep.json").write_text("[" * 100_000)


def binary_header(folder):
    (folder / "sweep.json").write_bytes(b"\xff\xfe{}")


def lose_header(folder):
    (folder / "sweep.json").unlink()


def cut_table(folder):
    path = folder / "sweep.npz"
    path.write_bytes(path.read_bytes()[:-200])


def flip_table(folder):
    path = folder / "sweep.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def table_of_another(folder):
    path = folder / "sweep.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"identity": np.array("0" * 64)})


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (break_header, "sweep.json cannot be read as a checkpoint"),
        (other_json, "sweep.json cannot be read as a checkpoint"),
        (deep_header, "sweep.json cannot be read as a checkpoint"),
        (binary_header, "sweep.json cannot be read as a checkpoint"),
        (nonsense(chunk=0), "sweep.json cannot be read .*a chunk of 0 points"),
        (nonsense(chunk=-8), "sweep.json cannot be read .*a chunk of -8 points"),
        (nonsense(chunk=8.0), r"sweep.json cannot be read .*a chunk of 8\.0 points"),
        (nonsense(chunk=True), "sweep.json cannot be read .*a chunk of True points"),
        (nonsense(chunk="8"), "sweep.json cannot be read .*a chunk of '8' points"),
        (nonsense(chunk=10**30), "sweep.json cannot be read .*a chunk of 10+ points"),
        (nonsense(chunk=None), "sweep.json cannot be read .*a chunk of None points"),
        (nonsense(chunk=16), "sweep.json is of another sweep .*chunk 16 there, 8 here"),
        (nonsense(runs=3), "sweep.json cannot be read .*its runs are not a list"),
        (nonsense(points="many"), "sweep.json is of another sweep .*points many there, 100 here"),
        (lose_header, "sweep.npz is there without sweep.json"),
        (cut_table, "sweep.npz cannot be read as a checkpoint"),
        (flip_table, "sweep.npz cannot be read as a checkpoint"),
        (table_of_another, "does not belong to sweep.json"),
    ],
)
def test_broken_folder_is_left(begun, damage, match):
    damage(begun)
    before = contents(begun)
    with pytest.raises(ValueError, match=f"folder: .*{match}.*left as it is"):
        SMALL(folder=begun)
    assert contents(begun) == before


@pytest.mark.parametrize("chunk", [0, -1, 0.5])
def test_a_chunk_of_nonsense_is_refused_without_a_table(begun, chunk):
    """Where no table says that the header was changed, and the caller does not give a chunk."""
    nonsense(chunk=chunk)(begun)
    (begun / "sweep.npz").unlink()
    before = contents(begun)
    with pytest.raises(ValueError, match=f"sweep.json .*a chunk of {chunk} .*another folder"):
        jaxent.sweep(KEY, sweep_worker.small, GRID, folder=begun)
    assert contents(begun) == before


def test_a_folder_in_use_is_left(begun, whole):
    """Refused with the process and host of the run that holds it; free once that has ended."""
    with lock.hold(begun, "sweep"):
        before = contents(begun)
        told = f"begun is in use by process {os.getpid()} on {platform.node()} since .*; wait"
        with pytest.raises(BlockingIOError, match=told):
            SMALL(folder=begun)
        assert contents(begun) == before
    same(SMALL(folder=begun), whole)


def test_a_finished_sweep_is_read_while_its_folder_is_held(begun, whole):
    SMALL(folder=begun)
    with lock.hold(begun, "sweep"):
        same(SMALL(folder=begun), whole)


def test_what_another_run_did_meanwhile_is_seen(tmp_path, monkeypatch, whole):
    """Both begin with an empty folder; while one compiles the other finishes."""
    fit, told = grid.fit, []

    def fit_slowly(*given):
        monkeypatch.setattr(grid, "fit", fit)
        jaxent.sweep(**other, chunk=8, folder=tmp_path)
        told.append(contents(tmp_path))
        return fit(*given)

    # The same sweep: its points are read, none is computed again.
    other = {"function": sweep_worker.small, "grid": GRID, "key": KEY}
    monkeypatch.setattr(grid, "fit", fit_slowly)
    done = []
    same(SMALL(folder=tmp_path, progress=done.append), whole)
    assert done == [100]
    # Another one: its header and table stay.
    for path in tmp_path.iterdir():
        path.unlink()
    other["key"] = jax.random.key(8)
    monkeypatch.setattr(grid, "fit", fit_slowly)
    with pytest.raises(ValueError, match=r"of another sweep \(key .* 8\] there, .* 7\] here"):
        SMALL(folder=tmp_path)
    assert contents(tmp_path) == told[-1]


def test_disk_full(begun, whole):
    """Writes fail as on a full disk: an OSError, the table of before whole, and it goes on."""
    before = contents(begun)["sweep.npz"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            SMALL(folder=begun)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(begun)["sweep.npz"] == before
    assert set(contents(begun)) == {"sweep.json", "sweep.npz", "sweep.lock"}  # none half-written
    same(SMALL(folder=begun), whole)


def test_folder_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"):
        SMALL(folder=blocked / "below")
    if os.geteuid() != 0:  # root writes anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(PermissionError):
            SMALL(folder=closed)


def test_too_much_memory_is_refused():
    """The message says what is needed and a chunk that fits, and it does."""

    def large(key, point):
        return jnp.arange(1000.0) * point["a"]

    grid = {"a": np.ones(64)}
    call = partial(jaxent.sweep, KEY, large, grid)
    with pytest.raises(ValueError, match=r"chunk: 32 points at once need \d+ bytes") as refused:
        call(chunk=32, memory=100_000)
    fits = int(str(refused.value).split("a chunk of ")[1].split()[0])
    assert 1 <= fits < 32
    assert call(chunk=fits, memory=100_000)["value"].shape == (64, 1000)
    with pytest.raises(ValueError, match="not even one point fits, needing"):
        call(memory=by_precision(5_000, 2_500))
    with pytest.raises(
        ValueError, match=r"results of 3 points need \d+ bytes, of \d+; 0 points fit"
    ):
        jaxent.sweep(KEY, lambda key, point: jnp.zeros(1 << 50), {"a": np.ones(3)})


def constant(value):
    return lambda key, point: value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"grid": {}}, "grid: it has no columns"),
        ({"grid": {"a": []}}, "grid: it has no points"),
        ({"grid": {"a": [1, 2], "b": [1]}}, r"columns differ in length \(a 2, b 1\)"),
        ({"grid": {"a": ["x"]}}, "column 'a' has shape .* wanted a list of numbers"),
        ({"grid": {"a": [[1.0]]}}, r"column 'a' has shape \[1, 1\]"),
        ({"grid": {"a": 1}}, "column 'a' has shape"),
        ({"grid": {"a": np.array([by_precision(2**63, 2**31)], np.uint64)}}, None),
        ({"key": 3}, "key: wanted one key"),
        ({"key": jax.random.split(KEY)}, "key: wanted one key"),
        ({"chunk": 0}, "chunk: 0 is not"),
        ({"memory": -1}, "memory: -1 is not"),
        ({"function": constant("text")}, "function: its output 'value' is str"),
        ({"function": constant({"a": object()})}, "function: its output 'a' is object"),
        ({"function": constant({"a": KEY})}, "function: its output 'a' is .* of key"),
        ({"function": constant(None)}, "function: it returns no array"),
        ({"function": constant({"a": 1.0})}, "output 'a' has the name of a column"),
        ({"function": constant({"b.c": 1.0, "b": {"c": 2}})}, "two outputs are called 'b.c'"),
    ],
)
def test_bad_input(tmp_path, change, match):
    call = {"function": constant(1.0), "grid": {"a": [1]}, "key": KEY} | change
    if match is None:
        assert jaxent.sweep(**call)["a"].dtype == by_precision(np.uint64, np.uint32)
        return
    with pytest.raises(ValueError, match=match):
        jaxent.sweep(**call, folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def start(devices, **options):
    """A process with so many devices, compiled as here."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweep_worker", json.dumps(options)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    """Their exit codes; none is left behind."""
    try:
        output = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert all(code in (0, -9) for code in codes), "\n".join(output)
    return codes


def two_processes(devices, outs, **options):
    """One table from two processes that share the work over the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert finish(
        *(
            start(devices, out=str(out), process=rank, address=address, **options)
            for rank, out in enumerate(outs)
        )
    ) == [0, 0]


def read(path, devices):
    with np.load(path) as file:
        table = dict(file)
    assert table.pop("devices") == devices
    return table


def test_same_bits_on_many_devices_and_after_a_kill(tmp_path, whole):
    """Eight devices, killed while saving; two processes go on; the table is that of one device."""
    folder, out = tmp_path / "kept", tmp_path / "never"
    options = {"experiment": "small", "folder": str(folder)}
    assert finish(start(8, out=str(out), die_at=2, **options)) == [-9]
    with np.load(folder / "sweep.npz") as file:
        assert file["done"].sum() == 64  # of 100, the first round
    outs = [tmp_path / "first.npz", tmp_path / "second.npz"]
    two_processes(2, outs, **options)
    for path in outs:
        same(read(path, 4), whole)


def finished(folder, whole):
    """How many points a folder has, each as it is in the whole table."""
    with np.load(folder / "sweep.npz") as file:
        done = file["done"]
        for name in set(whole) - set(GRID):
            assert file[f"out.{name}"][done].tobytes() == whole[name][done].tobytes()
    return int(done.sum())


def test_killed_while_it_holds_the_folder(tmp_path, whole):
    """A second run is refused while the first one lives, and goes on where it was killed."""
    folder = tmp_path / "kept"
    first = start(1, experiment="small", folder=str(folder), out=str(tmp_path / "no"), pause=0.5)
    try:
        while not (folder / "sweep.npz").exists():
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.01)
        with pytest.raises(BlockingIOError, match=f"in use by process {first.pid} on"):
            SMALL(folder=folder)
    finally:
        first.kill()
    assert finish(first) == [-9]
    assert (folder / "sweep.owner").exists()  # it had no time to tidy up
    (folder / "sweep.npz1234.part").write_text("half of a table")
    kept, told = finished(folder, whole), []
    assert kept % 8 == 0
    same(SMALL(folder=folder, progress=told.append), whole)
    assert told[0] == kept > 0
    assert set(contents(folder)) == {"sweep.json", "sweep.npz", "sweep.lock"}


@pytest.mark.slow
def test_two_at_once_and_twenty_kills(tmp_path, whole):
    """Two runs fight for a folder, an empty one at first; each kills itself, while it saves or at
    any moment, and comes back. What was once finished stays, bit for bit, until all is."""
    rng = np.random.default_rng(0)
    options = {"experiment": "small", "out": str(tmp_path / "no"), "pause": 0.5}
    folder, kept, kills, runs = tmp_path / "0", 0, 0, [None, None]
    try:
        while kills < 20:
            for k, run in enumerate(runs):
                if run is None:
                    end = {"die_at": int(rng.integers(1, 4))}, {"die_after": rng.uniform(0, 6)}
                    here = options | end[int(rng.integers(2))] | {"folder": str(folder)}
                    runs[k] = start(1, **here)
                elif run.poll() is not None:
                    runs[k], (code,) = None, finish(run)
                    kills += code == -9
            if (folder / "sweep.npz").exists():
                now = finished(folder, whole)
                assert now >= kept
                kept = now
            if kept == 100:  # begin with another folder
                for run in filter(None, runs):
                    run.kill()
                    kills += finish(run) == [-9]
                folder, kept, runs = tmp_path / str(kills), 0, [None, None]
            time.sleep(0.05)
    finally:
        for run in filter(None, runs):
            run.kill()
            run.communicate()
    told = []
    same(SMALL(folder=folder, progress=told.append), whole)
    assert (told or [100])[0] >= kept


@pytest.mark.slow
def test_real_sweep(tmp_path):
    """64 points of the circulant bandit, N = 60..1800: one device, eight, two processes, a kill."""
    tables = {}
    for devices in (1, 8):
        out = tmp_path / f"{devices}.npz"
        assert finish(start(devices, experiment="circulant", out=str(out))) == [0]
        tables[devices] = read(out, devices)
    one = tables[1]
    assert len(one["size"]) == 64
    scaled = np.sqrt(one["size"]) * one["entanglement"]
    assert ((scaled > 0.15) & (scaled < 0.28)).all()
    same(tables[8], one)
    outs = [tmp_path / "first.npz", tmp_path / "second.npz"]
    two_processes(4, outs, experiment="circulant")
    for path in outs:
        same(read(path, 8), one)
    # Killed at any moment after the first save, of eight.
    out, folder = tmp_path / "resumed.npz", tmp_path / "kept"
    options = {"experiment": "circulant", "folder": str(folder), "out": str(out)}
    process = start(1, **options)
    while not (folder / "sweep.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert finish(process) == [-9]
    with np.load(folder / "sweep.npz") as file:
        assert 0 < file["done"].sum() < 64
    assert finish(start(8, **options)) == [0]
    same(read(out, 8), one)
