"""The command `jaxent audit FILE`."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

try:
    import tyro
    from tqdm import tqdm
except ImportError as error:
    raise SystemExit(f"jaxent: needs {error.name}; pip install 'jaxent[audit]'") from None

from .. import __version__

if TYPE_CHECKING:
    import numpy as np

    from ..auditing.result import Audit
    from ..data.tables import Log

USAGE = "usage: jaxent audit FILE [options]   (jaxent audit --help lists them)"

_NAMES = "t|agent|state|action|reward|episode|signal"
# Bits of a seed that JAX keeps whatever its precision.
_SEEDS = 2**32


@dataclass(frozen=True)
class AuditOptions:
    """How wrong the sum of local values of a log's agents is, or a trained critic.

    A log is a text file (CSV) or a Parquet file with columns t, agent, state, action, reward, and
    maybe episode and signal, one row for each agent and epoch. Prints a report and writes
    audit.json and audit.png. The verdict words are defined by numbers in docs/audit.md.
    """

    file: tyro.conf.Positional[Path]
    """The log."""
    discount: float = 0.9
    """Discount of the values, in [0, 1)."""
    critic: Path | None = None
    """Values of a trained critic to be judged: a file with a row for each epoch of the log, in
    order or with a column t, and one column of the team's value or one for each agent."""
    shared_reward: tyro.conf.FlagCreatePairsOff[bool] = False
    """The reward is one for all agents, equal in all rows of an epoch."""
    allow_gaps: tyro.conf.FlagCreatePairsOff[bool] = False
    """Agents may come and go: epochs without a row are left out, and listed."""
    states: tuple[str, ...] = ()
    """Labels that a state may have, as they are written; whatever occurs if not given."""
    actions: tuple[str, ...] = ()
    """Labels that an action may have, as they are written; whatever occurs if not given."""
    columns: str = ""
    """Other headings, as t=time,agent=id."""
    observations: tuple[str, ...] = ()
    """Headings of columns of numbers that agents see; a column state may then be missing."""
    step: str | None = None
    """Of t between epochs, in seconds for timestamps; the largest that fits if not given."""
    sep: str | None = None
    """Delimiter of a text file; a comma, or a tab for .tsv, if not given."""
    encoding: str = "utf-8"
    """Of a text file."""
    min_visits: int = 50
    """A local pair seen less often is reported as not enough data."""
    num_permutations: int = 199
    """Of the test of no entanglement."""
    seed: int = 0
    """Of the permutations and the placebo."""
    out: Path | None = None
    """Folder for audit.json and audit.png; audit-NAME by default, for a log NAME.csv."""
    html: Path | None = None
    """A report to send on, one file that a browser shows: tables, pictures, methods."""


def main(argv: list[str] | None = None) -> int:
    """The console script: 0 for a report, whatever its verdict, 2 for bad input, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if arguments[:1] == ["--version"]:
        print(f"jaxent {__version__}")
        return 0
    if arguments[:1] != ["audit"]:
        print(USAGE, file=sys.stderr)
        return 2
    return run_audit(tyro.cli(AuditOptions, prog="jaxent audit", args=arguments[1:]))


def run_audit(options: AuditOptions) -> int:
    """Read, audit, save, print."""
    from .outputs import (
        JSON,
        PNG,
        check_html,
        default_folder,
        folder_for_audit,
        write_audit,
        write_html,
    )

    out = options.out or default_folder(options.file)
    try:
        if not 0 <= options.seed < _SEEDS:
            raise ValueError(f"--seed: {options.seed} is outside 0..{_SEEDS - 1}")
        if options.html is not None:
            check_html(options.html)
        log = _read(options)
        critic = _read_critic(options, log)
        with folder_for_audit(out):
            found = _audit(options, log, critic)
            write_audit(found, options.file, out)
            if options.html is not None:
                write_html(found, options.file, options.html)
    except ValueError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("jaxent audit: interrupted", file=sys.stderr)
        return 130
    also = "" if options.html is None else f", and {options.html}"
    _say(f"{found}\n\nwrote {out / JSON} and {out / PNG}{also}")
    return 0


def _read(options: AuditOptions) -> "Log":
    from ..data.tables import read_log

    given = {"state": options.states, "action": options.actions}
    return read_log(
        options.file,
        known={column: labels for column, labels in given.items() if labels},
        allow_gaps=options.allow_gaps,
        shared_reward=options.shared_reward,
        columns=_columns(options.columns),
        step=options.step,
        sep=options.sep,
        encoding=options.encoding,
        observations=options.observations,
    )


def _read_critic(options: AuditOptions, log: "Log") -> "np.ndarray | None":
    if options.critic is None:
        return None
    from ..auditing.critic import critic_along

    return critic_along(
        options.critic,
        log.trajectory,
        columns=_columns(options.columns),
        sep=options.sep,
        encoding=options.encoding,
    )


def _audit(options: AuditOptions, log: "Log", critic: "np.ndarray | None") -> "Audit":
    import jax

    from ..auditing.report import audit

    try:
        # None: no bar where nobody looks, as in a file.
        total = log.trajectory.num_agents
        with tqdm(total=total, unit="agent", disable=None, leave=False) as bar:
            return audit(
                log,
                discount=options.discount,
                critic=critic,
                key=jax.random.key(options.seed),
                min_visits=options.min_visits,
                num_permutations=options.num_permutations,
                progress=bar.update,
            )
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from None


def _columns(text: str) -> dict[str, str]:
    """Headings by what they are: `t=time,agent=id`; a heading may hold commas."""
    columns: dict[str, str] = {}
    for part in re.split(rf",(?=(?:{_NAMES})=)", text) if text else []:
        name, equals, heading = part.partition("=")
        if not equals or not heading or name in columns:
            raise ValueError(f"--columns: wanted t=HEADING,agent=HEADING,..., got {text}")
        columns[name] = heading
    return columns


def _say(text: str) -> None:
    """Print, whatever the terminal can show; who has closed it wants no more."""
    from ..data.log_table import escaped

    lines = "\n".join(escaped(line) for line in text.split("\n"))
    try:
        encoding = sys.stdout.encoding or "utf-8"
        print(lines.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        sys.stdout = None
    except OSError as error:
        sys.stdout = None
        _fail(f"standard output: cannot be written ({error.strerror or error})")


def _fail(message: str) -> NoReturn:
    """End with one line on standard error and exit code 2."""
    from ..data.log_table import escaped

    print(f"jaxent audit: {escaped(message)}", file=sys.stderr)
    raise SystemExit(2)
