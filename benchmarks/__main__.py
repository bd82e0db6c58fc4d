"""Everything side by side with what people would use instead, in one run.

    python -m benchmarks [--quick] [--only protocol evaluation ..] [--out DIR] [--write-readme]

Each comparison is a process of its own, so that none finds the memory that another has freed.
Writes `DIR/results.json` (config, versions, device, seed, rows) after each and prints the tables;
`--write-readme` also puts them between the markers of benchmarks/README.md. Ends with 1 if an
answer disagrees with a peer's, with 2 if the peers are not installed.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.race import Row, table
from experiments import command

NAMES = (
    "protocol",
    "evaluation",
    "kronecker",
    "measures",
    "batches",
    "exact",
    "indices",
    "populations",
)
PEERS = ("numpy", "scipy", "numba", "quantecon", "cola-ml", "PyKronecker", "clarabel", "cvxpy")
PEERS += ("markovianbandit-pkg",)
README = Path(__file__).with_name("README.md")


def missing() -> list[str]:
    """Peers that cannot be imported."""
    modules = ("clarabel", "cola", "cvxpy", "markovianbandit", "numba", "pykronecker", "quantecon")
    return [name for name in modules if importlib.util.find_spec(name) is None]


def versions() -> dict[str, str]:
    """Of jaxent and its peers, and where they ran."""
    found = command.versions() | {"cores": str(os.cpu_count())}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def plain(row: Row) -> dict[str, Any]:
    """A row for JSON, with what is derived from it."""
    return row._asdict() | {
        "best_peer": row.best_peer,
        "ratio": row.ratio,
        "agrees": row.agrees,
    }


def write_between(text: str, name: str, path: Path = README) -> None:
    """Put a text between the markers of that name in a file, the rest left as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One comparison, here."""
    with command.double_precision():
        module = importlib.import_module(f"benchmarks.{name}")
        config = module.QUICK if options.quick else module.Config()
        start = time.perf_counter()
        rows = module.run(config, options.seed)
    return {
        "config": config,
        "took": time.perf_counter() - start,
        "text": f"### {module.TITLE}\n\n{table(rows)}",
        "rows": [plain(row) for row in rows],
    }


def in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same in a fresh process, which leaves its results in a folder of its own."""
    folder = options.out / name
    asked = ["--only", name, "--out", str(folder), "--seed", str(options.seed)]
    asked += ["--quick"] if options.quick else []
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *asked], stdout=subprocess.DEVNULL, check=False
    )
    file = folder / "results.json"
    if done.returncode not in (0, 1) or not file.exists():
        command.fail(f"{name} ended with {done.returncode}; run it alone: --only {name}")
    return json.loads(file.read_text())[name]


def main(argv: list[str] | None = None) -> int:
    """Run the comparisons; 0 if all answers agree."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=about)
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that all works")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("results") / "benchmarks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-readme", action="store_true", help="put the tables in the README")
    options = parser.parse_args(argv)
    if missing():
        command.fail(f"not installed: {', '.join(missing())}; install jaxent[benchmarks]")
    command.open_folder(options.out)
    results: dict[str, Any] = {
        "quick": options.quick,
        "seed": options.seed,
        "versions": versions(),
    }
    load = f"{os.getloadavg()[0]:.1f}"
    sections, ok = [], True
    alone = len(options.only) == 1
    for name in options.only:
        found = compare(name, options) if alone else in_a_process(name, options)
        results[name] = found
        command.save_json(options.out / "results.json", results)
        sections.append(found["text"])
        print(f"{sections[-1]}\n\n({name}: {found['took']:.0f} s)\n", flush=True)
        ok = ok and all(row["agrees"] for row in found["rows"])
    behind = [
        f"{name}: {row['problem']} ({row['ratio']:.2g} of {row['best_peer']}'s speed)"
        for name in options.only
        for row in results[name]["rows"]
        if row["ratio"] < 1
    ]
    print(f"behind a peer: {'; '.join(behind) or 'nowhere'}")
    if options.write_readme:
        where = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
        head = f"{where}; seed {options.seed}; load at the start {load}. Behind a peer: "
        head += f"{'; '.join(behind) or 'nowhere'}."
        write_between("\n\n".join([head, *sections]), "tables")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
