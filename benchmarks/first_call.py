"""What a person waits for: the first call of each public function, cold, in a process of its own.

    python -m benchmarks.first_call [--only NAME ..] [--lines] [--write-readme]

A case is a small problem, the same for all: two agents of four pairs, a bandit of ten agents. Its
process imports jaxent, makes the problem, calls the function once and then again. The first call
alone is timed, in wall and CPU seconds (XLA compiles on several cores), then the fastest of a few
calls after it. `--lines` counts the optimized HLO of everything compiled in the first call, in a
run of its own, since writing it takes time. Peers are timed from a cold start too, their import
included. What comes before any call, imports and the command, is set against `import jax`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Small cases of a run without options; a compiled program that is kept would hide compilation.
FRESH = {"JAX_ENABLE_X64": "1", "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu"}
AGAIN = 5


def chain() -> tuple[Any, Any, Any]:
    """Two agents of two states and two actions, any chain; local rewards and a law."""
    import jax.numpy as jnp
    import numpy as np

    import jaxent

    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(16, 0.5), 16)
    law = np.linalg.matrix_power(P, 1000)[0]
    rewards = [jnp.asarray(rng.normal(size=4)) for _ in range(2)]
    made = jaxent.PairChain.from_matrix(jnp.asarray(P), sizes=(4, 4))
    return made, rewards, jnp.asarray(law / law.sum())


def on_chain(call: Callable) -> Callable:
    """A case of a function of (jaxent, chain, rewards, mu)."""

    def case() -> Callable[[], Any]:
        import jaxent

        made = chain()
        return lambda: call(jaxent, *made)

    return case


def gradient() -> Callable[[], Any]:
    """The decomposition error in the logits of a joint policy."""
    import jax
    import jax.numpy as jnp

    import jaxent

    mdp, _ = jaxent.example_1()
    free = jaxent.WeaklyCoupledMDP(mdp.agents, mdp.discount)

    def error(logits: Any) -> Any:
        made = jaxent.pair_chain(free, jaxent.softmax_policy(logits))
        return jaxent.decomposition_error(made, free.rewards, discount=0.9)

    slope, logits = jax.grad(error), jnp.zeros((2, 2, 2, 2))
    return lambda: slope(logits)


def on_bandit(call: Callable) -> Callable:
    """A case of a function of (jax, jaxent, bandit, priority)."""

    def case() -> Callable[[], Any]:
        import jax

        import jaxent

        bandit, order = jaxent.circulant_bandit(10), jaxent.CIRCULANT_PRIORITY
        return lambda: call(jax, jaxent, bandit, order)

    return case


CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "entanglement_tv": on_chain(lambda je, c, r, mu: je.entanglement_tv(c)),
    "entanglement_mu_tv": on_chain(lambda je, c, r, mu: je.entanglement_mu_tv(c, mu)),
    "entanglement_atv": on_chain(lambda je, c, r, mu: je.entanglement_atv(c, agent=0)),
    "entanglement_mu_atv": on_chain(lambda je, c, r, mu: je.entanglement_mu_atv(c, mu, agent=0)),
    "entanglement_mu_atv_upper": on_chain(
        lambda je, c, r, mu: je.entanglement_mu_atv_upper(c, mu, agent=0)
    ),
    "stationary_distribution": on_chain(lambda je, c, r, mu: je.stationary_distribution(c)),
    "q_values": on_chain(lambda je, c, r, mu: je.q_values(c, r, discount=0.9)),
    "decompose": on_chain(lambda je, c, r, mu: je.decompose(c, r, discount=0.9)),
    "separability_witness": on_chain(lambda je, c, r, mu: je.separability_witness(c)),
    "locality_order": on_chain(lambda je, c, r, mu: je.locality_order(c)),
    "fit_blocks": on_chain(lambda je, c, r, mu: je.fit_blocks(c, r, 1, discount=0.9)),
    "block_values": on_chain(lambda je, c, r, mu: je.block_values(c, r, 1, discount=0.9)),
    "best_graph": on_chain(lambda je, c, r, mu: je.best_graph(c, r, num_pairs=1, discount=0.9)),
    "fit_additive": on_chain(lambda je, c, r, mu: je.fit_additive(c, r, discount=0.9)),
    "reward_entanglement": on_chain(
        lambda je, c, r, mu: je.reward_entanglement(c, c.lift(r) ** 2, mu)
    ),
    "a_posteriori": on_chain(lambda je, c, r, mu: je.bounds.a_posteriori(c, r, discount=0.9)),
    "gradient of the error": gradient,
    "simulate_counts": on_bandit(
        lambda jax, je, b, order: je.simulate_counts(jax.random.key(0), b, order, num_steps=100)
    ),
    "mean_field": on_bandit(lambda jax, je, b, order: je.mean_field(b, order)),
    "ground_truth": on_bandit(lambda jax, je, b, order: je.ground_truth(b, order)),
    "whittle_index": on_bandit(lambda jax, je, b, order: je.whittle_index(b)),
}

# What comes before any call, of which the first row is not ours.
STARTS = {
    "import jax": "import jax",
    "import jaxent": "import jaxent",
    "import jaxent, the first name asked for": "import jaxent; jaxent.MDP",
    "jaxent --version": "from jaxent.reporting.cli import main; main(['--version'])",
    "jaxent --help": "from jaxent.reporting.cli import main; main(['--help'])",
}

# A cold start of what people would use instead, on problems of the same size.
PEERS = {
    "HiGHS through SciPy, TV": (
        "import numpy as np; from tests import oracles_measures as o;"
        "p = np.random.default_rng(0).dirichlet(np.full(16, .5), 16).reshape(4, 4, 4, 4);"
        "o.solve(o.nearest_separable(p))"
    ),
    "Clarabel, TV": (
        "import numpy as np; from tests import oracles_measures as o; import clarabel as c;"
        "from scipy import sparse as s;"
        "p = np.random.default_rng(0).dirichlet(np.full(16, .5), 16).reshape(4, 4, 4, 4);"
        "cost, au, bu, ae, be = o.nearest_separable(p); n = len(cost);"
        "A = s.vstack([ae, au, -s.identity(n)]).tocsc();"
        "b = np.concatenate([be, bu, np.zeros(n)]);"
        "k = [c.ZeroConeT(len(be)), c.NonnegativeConeT(len(bu) + n)];"
        "d = c.DefaultSettings(); d.verbose = False;"
        "c.DefaultSolver(s.csc_matrix((n, n)), np.asarray(cost), A, b, k, d).solve()"
    ),
    "NumPy, Q-values": (
        "import numpy as np; P = np.random.default_rng(0).dirichlet(np.full(16, .5), 16);"
        "np.linalg.solve(np.eye(16) - .9 * P, P.sum(0))"
    ),
    "QuantEcon, stationary law": (
        "import numpy as np, quantecon as q;"
        "q.MarkovChain(np.random.default_rng(0).dirichlet(np.full(16, .5), 16))"
        ".stationary_distributions"
    ),
}


def cpu() -> float:
    """CPU seconds of this process so far, all threads."""
    spent = os.times()
    return spent.user + spent.system


def measure(name: str) -> dict[str, float]:
    """In this process: make the problem, call, call again."""
    import jax

    call = CASES[name]()
    spent, begun = cpu(), time.perf_counter()
    jax.block_until_ready(call())
    found = {"first": time.perf_counter() - begun, "cpu": cpu() - spent}
    again = []
    for _ in range(AGAIN):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        again.append(time.perf_counter() - begun)
    return found | {"again": min(again)}


def fresh(command: list[str], flags: str = "") -> subprocess.CompletedProcess:
    """Run a command in a process that has compiled nothing."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    env = os.environ | FRESH | ({"XLA_FLAGS": flags} if flags else {})
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)


def lines_of(name: str) -> int:
    """Lines of the optimized HLO of all that the first call compiles."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.first_call", "--case", name]
        fresh(command, f"--xla_dump_to={folder} --xla_dump_hlo_as_text")
        texts = Path(folder).glob("*after_optimizations.txt")
        return sum(path.read_text().count("\n") for path in texts)


def rows_of(names: list[str], *, lines: bool) -> list[dict[str, Any]]:
    """One row a case, each from a process of its own."""
    rows = []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.first_call", "--case", name]
        row = {"name": name} | json.loads(fresh(command).stdout.splitlines()[-1])
        rows.append(row | ({"lines": lines_of(name)} if lines else {}))
        print(line(rows[-1]), flush=True)
    return rows


def starts() -> list[str]:
    """Lines of the table of what comes before any call: CPU seconds, the least of a few."""
    spent = {}
    for name, code in STARTS.items():
        timed = f"{code}; import os; spent = os.times(); print(spent.user + spent.system)"
        runs = [fresh([sys.executable, "-c", timed]).stdout.split()[-1] for _ in range(AGAIN)]
        spent[name] = min(map(float, runs))
    whole = spent["import jax"]
    rows = [f"| `{name}` | {took:.2f} | {took / whole:.2f} |" for name, took in spent.items()]
    return ["| before any call | CPU, s | of `import jax` |", "| --- | --- | --- |", *rows]


def peers() -> list[str]:
    """Lines of the table of peers, what is not installed left out."""
    found = ["| peer | wall, s | CPU, s |", "| --- | --- | --- |"]
    for name, code in PEERS.items():
        timed = f"import os, time; begun = time.perf_counter(); {code}; spent = os.times();"
        timed += "print(time.perf_counter() - begun, spent.user + spent.system)"
        try:
            wall, spent = map(float, fresh([sys.executable, "-c", timed]).stdout.split()[-2:])
            found.append(f"| {name}, import included | {wall:.2f} | {spent:.2f} |")
        except subprocess.CalledProcessError:
            found.append(f"| {name} | not installed | |")
    return found


HEAD = "| first call of | wall, s | CPU, s | again, ms | lines of HLO |\n" + "| --- " * 5 + "|"


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    count = row.get("lines", "")
    times = f"{row['first']:.2f} | {row['cpu']:.2f} | {1e3 * row['again']:.3g}"
    return f"| `{row['name']}` | {times} | {count} |"


def main(argv: list[str] | None = None) -> int:
    """Time the first calls and print their table."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_call", description=about)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--lines", action="store_true", help="count lines of HLO as well")
    parser.add_argument("--write-readme", action="store_true", help="put the table in the README")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.case:
        print(json.dumps(measure(options.case)))
        return 0
    print(HEAD)
    rows = rows_of(options.only, lines=options.lines)
    whole = sum(row["cpu"] for row in rows)
    note = f"All of it: {whole:.1f} CPU s."
    text = "\n".join([HEAD, *map(line, rows), "", note, "", *starts(), "", *peers()])
    print(text[text.index("\n\n") + 2 :])
    if options.write_readme:
        from benchmarks.__main__ import write_between

        write_between(text, "first call")
    return 0


if __name__ == "__main__":
    sys.exit(main())
