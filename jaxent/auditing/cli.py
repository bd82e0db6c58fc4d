"""The command `jaxent audit FILE`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import jax

try:
    import tyro
    from tqdm import tqdm
except ImportError as error:
    raise SystemExit(f"jaxent: needs {error.name}; pip install 'jaxent[audit]'") from None

from ..data.tables import read_log
from ..sweeps.files import open_folder, save_json
from .plotting import plot_audit
from .report import audit, to_dict

USAGE = "usage: jaxent audit FILE [options]   (jaxent audit --help lists them)"


@dataclass(frozen=True)
class AuditOptions:
    """Whether value decomposition can be trusted for the agents of a log.

    A log is a CSV or Parquet file with columns t, agent, state, action, reward, and maybe episode
    and signal, one row for each agent and epoch. Prints a report and writes audit.json and
    audit.png. The verdict words are defined by numbers in docs/audit.md.
    """

    file: tyro.conf.Positional[Path]
    """The log."""
    discount: float = 0.9
    """Discount of the values, in [0, 1)."""
    shared_reward: tyro.conf.FlagCreatePairsOff[bool] = False
    """The reward is one for all agents, equal in all rows of an epoch."""
    allow_gaps: tyro.conf.FlagCreatePairsOff[bool] = False
    """Agents may come and go: epochs without a row are left out, and listed."""
    states: tuple[str, ...] = ()
    """Labels that a state may have; whatever occurs if not given."""
    actions: tuple[str, ...] = ()
    """Labels that an action may have; whatever occurs if not given."""
    min_visits: int = 50
    """A local pair seen less often is reported as not enough data."""
    num_permutations: int = 199
    """Of the test of no entanglement."""
    seed: int = 0
    """Of the permutations."""
    out: Path | None = None
    """Folder for audit.json and audit.png; audit-NAME by default, for a log NAME.csv."""


def main(argv: list[str] | None = None) -> int:
    """The console script: 0 for a report, whatever its verdict, 2 for bad input."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if arguments[:1] != ["audit"]:
        print(USAGE, file=sys.stderr)
        return 2
    return run_audit(tyro.cli(AuditOptions, prog="jaxent audit", args=arguments[1:]))


def run_audit(options: AuditOptions) -> int:
    """Read, audit, print, save."""
    out = options.out or Path(f"audit-{options.file.name.split('.')[0]}")
    given = {"state": options.states, "action": options.actions}
    try:
        log = read_log(
            options.file,
            known={column: _labels(labels) for column, labels in given.items() if labels},
            allow_gaps=options.allow_gaps,
            shared_reward=options.shared_reward,
        )
    except ValueError as error:
        _fail(str(error))
    try:
        open_folder(out)
    except OSError as error:
        _fail(f"--out {out}: cannot write there ({error.strerror or error})")
    gaps = log.gaps[:20] + ((f"{len(log.gaps) - 20} more gaps",) if log.gaps[20:] else ())
    total = log.trajectory.num_agents
    try:
        # None: no bar where nobody looks, as in a file.
        with tqdm(total=total, unit="agent", disable=None, leave=False) as bar:
            found = audit(
                log.trajectory,
                discount=options.discount,
                key=jax.random.key(options.seed),
                min_visits=options.min_visits,
                num_permutations=options.num_permutations,
                notes=gaps,
                progress=bar.update,
            )
    except ValueError as error:
        _fail(f"{options.file}: {error}")
    print(found)
    plot_audit(found).savefig(out / "audit.png", dpi=150)
    save_json(out / "audit.json", {"file": str(options.file), **to_dict(found)})
    print(f"\nwrote {out / 'audit.json'} and {out / 'audit.png'}")
    return 0


def _labels(given: tuple[str, ...]) -> tuple[int | str, ...]:
    """As a file has them: numbers where all are numbers."""
    try:
        return tuple(int(label) for label in given)
    except ValueError:
        return given


def _fail(message: str) -> NoReturn:
    """End with one line on standard error and exit code 2."""
    print(f"jaxent audit: {message}", file=sys.stderr)
    raise SystemExit(2)
