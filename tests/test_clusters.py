"""What starts processes is found by JAX, as the page on many devices says it is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs import EXAMPLE
from .test_sharding import KINDS, answers, finish, free_port, same, start

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "many-devices.md"
BLOCK = re.compile(r"```python\n((?:(?!```).)*)\n```", flags=re.DOTALL)
# Every process of two says this, whichever its number.
SAYS = "0.038 0.038, 2 of 2 devices"


def slurm(rank):
    """What srun sets for one of two tasks on one node."""
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
    return job | {"SLURM_STEP_NUM_NODES": "1"} | own


def open_mpi(rank):
    """What mpirun of Open MPI 4 sets likewise."""
    job = {"OMPI_MCA_orte_hnp_uri": "1414922240.0;tcp://127.0.0.1:38591"}
    job |= {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    return job | {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_a_launcher_is_found(tmp_path, launcher):
    """`jax.distributed.initialize()` reads what it sets; answers are those of one process."""
    outs = [tmp_path / f"{rank}.npz" for rank in range(2)]
    port = {"JAX_COORDINATOR_PORT": str(free_port())}  # or one by the number of the job
    call = [(launcher(rank) | port, str(out)) for rank, out in enumerate(outs)]
    codes, said = finish(*(start(1, own, out=out, names=KINDS[:1]) for own, out in call))
    assert codes == [0, 0], "\n".join(said)
    for out in outs:
        same(answers(out, 2, 2), "weakly coupled", None)


def program(word):
    """The example of the page below those lines of it that have this word."""
    text = PAGE.read_text()
    (head,) = [block for block in BLOCK.findall(text) if word in block]
    return f"{head}\n{EXAMPLE.findall(text)[0][0]}\n"


def test_the_page_has_one_program_for_each_way():
    """That they run is for the slow tests; here that they are there, and are Python."""
    for word in ("distributed.initialize()", "OMPI_COMM_WORLD_"):
        compile(program(word), str(PAGE), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_the_program_of_the_page_runs(tmp_path, launcher):
    """As it stands there, in two processes."""
    path = tmp_path / "my_chain.py"
    path.write_text(program("distributed.initialize()"))
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    codes, said = finish(*(run([sys.executable, str(path)], launcher(k) | port) for k in range(2)))
    assert codes == [0, 0], "\n".join(said)
    assert [text.splitlines()[-1] for text in said] == [SAYS] * 2


@pytest.mark.slow
def test_the_program_of_the_page_runs_under_mpirun(tmp_path):
    """Of Open MPI 4 found by itself, of 5 with the lines of the page for it."""
    major = version_of_mpirun()
    path = tmp_path / "my_chain.py"
    options = ["-np", "2", "--allow-run-as-root", "--bind-to", "none"]
    if major == 4:
        path.write_text(program("distributed.initialize()"))
        options += ["--oversubscribe", "--mca", "oob_tcp_if_include", "lo"]
    else:
        path.write_text(program("OMPI_COMM_WORLD_"))
        options += ["--map-by", ":OVERSUBSCRIBE", "-x", f"COORDINATOR=127.0.0.1:{free_port()}"]
    (code,), (said,) = finish(run(["mpirun", *options, sys.executable, str(path)], {}))
    assert code == 0, said
    assert said.splitlines().count(SAYS) == 2


def version_of_mpirun():
    """4 or 5 of Open MPI; skips where there is none, and says so."""
    if shutil.which("mpirun") is None:
        pytest.skip("mpirun is not installed (Open MPI; Debian: apt-get install openmpi-bin)")
    said = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\(Open MPI\) (\d+)", said.stdout)
    if found is None or int(found[1]) not in (4, 5):
        pytest.skip(f"mpirun is none of Open MPI 4 or 5: {said.stdout.splitlines()[:1]}")
    return int(found[1])


def run(command, extra):
    """A process with one device, from the root of the project."""
    kept = {name: x for name, x in os.environ.items() if not name.startswith(("SLURM_", "OMPI_"))}
    return subprocess.Popen(
        command,
        env=kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | extra,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
