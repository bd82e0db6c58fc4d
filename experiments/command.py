"""What every experiment's command shares: options, results that survive, progress.

An experiment is a `Config` (a NamedTuple of plain numbers with a `QUICK` variant), a `check` of it,
and its `work`, from a `Job` to a `Report`. `run` is the command around them: it reads the options
of the config, lets `work` write `results.json` atomically after every finished piece and go on from
there with `--resume`, saves the claims and prints them. Bad options and folders end with one line
and exit code 2.
"""

import argparse
import json
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import matplotlib
import numpy as np
from tqdm import tqdm

import experiments
import jaxent
from jaxent.sweeps import files, lock


class Options(NamedTuple):
    """What the command line said.

    Attributes:
        config: of the experiment.
        seed: of every random number.
        out: folder for figures and results.
        resume: whether to keep the finished pieces of an earlier run.
    """

    config: Any
    seed: int
    out: Path
    resume: bool


class Claim(NamedTuple):
    """A claim beside what was measured."""

    claim: str
    measured: str
    holds: bool


class Job(NamedTuple):
    """What an experiment is given to work on.

    Attributes:
        config: of the experiment, checked.
        seed: of every random number.
        out: folder for figures, open.
        stored: what `results.json` holds from the run to go on from; empty without `--resume`.
        save: `save(content, told)` writes what is finished so far; after Ctrl-C the command says
            that `told` is kept.
    """

    config: Any
    seed: int
    out: Path
    stored: dict[str, Any]
    save: Callable[[dict[str, Any], str], None]


class Report(NamedTuple):
    """What an experiment ends with.

    Attributes:
        content: of `results.json`, beside the config, the seed, the versions and the claims.
        claims: what should hold, beside what was measured.
        figures: the files drawn.
        heading: of a table to print.
        rows: of that table.
    """

    content: dict[str, Any]
    claims: Sequence[Claim]
    figures: Sequence[Path]
    heading: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one line and exit code 2, without the usage text."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def fail(message: str) -> NoReturn:
    """End the command with one line on standard error and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse(
    name: str, about: str, full: Any, quick: Any, help: dict[str, str], argv: list[str] | None
) -> Options:
    """Read the command line: one option for each field of the config, and the common ones.

    Args:
        name: of the experiment, as in `python -m experiments.NAME`.
        about: one paragraph for `--help`.
        full: the default config, a NamedTuple of ints, floats, strings and tuples of one of them.
        quick: the config that `--quick` starts from.
        help: one line for each field.
        argv: the arguments; those of the process if None.
    """
    parser = _OneLineParser(prog=f"python -m experiments.{name}", description=about)
    for field, value in full._asdict().items():
        many = isinstance(value, tuple)
        kind = type(value[0] if many else value)
        shown = f"{value[0]} {value[1]} .. {value[-1]}" if many and len(value) > 3 else value
        parser.add_argument(
            f"--{field.replace('_', '-')}",
            type=kind,
            nargs="+" if many else None,
            metavar="NAME" if kind is str else "N",
            help=f"{help[field]} (default: {shown})",
        )
    parser.add_argument("--quick", action="store_true", help="a small version, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of every random number (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results") / name,
        help="folder for figures and results.json (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from results.json in --out")
    given = vars(parser.parse_args(argv))
    config = quick if given["quick"] else full
    for field in full._fields:
        value = given[field]
        if isinstance(value, list):  # numbers from the smallest on, names as given; each once
            names = isinstance(value[0], str)
            value = tuple(dict.fromkeys(value) if names else sorted(set(value)))
        if value is not None:
            config = config._replace(**{field: value})
    return Options(config, given["seed"], given["out"], given["resume"])


def open_folder(out: Path) -> None:
    """Make the output folder and see that it can be written, or end with one line."""
    try:
        files.open_folder(out)
    except OSError as error:
        fail(f"--out {out}: cannot write there ({error.strerror or error})")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """The output folder, other runs kept out of it, or one line that says why not."""
    open_folder(out)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(out, "results"))
        except BlockingIOError as error:
            fail(f"--out: {str(error).removeprefix('folder: ')}")
        yield


def versions() -> dict[str, str]:
    """What made the numbers: package versions, Python, device."""
    return {
        "jaxent": jaxent.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def plain(value: Any) -> Any:
    """Arrays and NamedTuples as what JSON holds."""
    if hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def save_json(path: Path, content: Any) -> None:
    """Write arrays and NamedTuples as JSON, the whole file or nothing."""
    files.save_json(path, plain(content))


def header(config: Any, seed: int) -> dict[str, Any]:
    """What every results file begins with: config, seed, versions."""
    return {"config": plain(config), "seed": seed, "versions": versions()}


def load_results(path: Path, config: Any, seed: int, besides: tuple[str, ...]) -> dict[str, Any]:
    """Results of an earlier run to go on from, or one line that says why not.

    Args:
        path: of `results.json`.
        config: of this run.
        seed: of this run.
        besides: fields in which the earlier config may differ.
    """
    try:
        stored = json.loads(path.read_text())
        earlier = stored["config"] | {"seed": stored["seed"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fail(f"--resume: {path} cannot be read as results ({error}); it was left as it is")
    mine = plain(config) | {"seed": seed}
    other = [f for f in mine if f not in besides and earlier.get(f) != mine[f]]
    if other:
        told = ", ".join(f"{f} {earlier.get(f)} there, {mine[f]} here" for f in other)
        fail(f"--resume: {path} is of another run ({told}); give the same or another --out")
    return stored


def at_least(config: Any, **least: float) -> None:
    """Raise a ValueError that names the field of the config that is smaller than this."""
    for field, bound in least.items():
        if getattr(config, field) < bound:
            raise ValueError(f"{field.replace('_', '-')}: at least {bound}")


def check_bandits(names: Sequence[str], *sizes: int) -> None:
    """Raise a ValueError unless there are bandits of these names at each of these N."""
    for name in names:
        for size in sizes:
            try:
                jaxent.named_bandit(name, size)
            except ValueError as error:
                raise ValueError(f"bandit {name}: {error}") from None


def run(
    name: str,
    doc: str | None,
    full: Any,
    quick: Any,
    help: dict[str, str],
    argv: list[str] | None,
    *,
    check: Callable[[Any], None],
    work: Callable[[Job], Report],
    besides: tuple[str, ...] = (),
) -> int:
    """An experiment from its command line to its exit code, in double precision.

    Args:
        name: as in `python -m experiments.NAME`, and of the folder in `results`.
        doc: of the module; its first paragraph is for `--help`.
        full: the default config.
        quick: the config that `--quick` starts from.
        help: one line for each field.
        argv: the arguments; those of the process if None.
        check: raises a ValueError that starts with the field where the config makes no sense.
        work: computes what is not stored yet, and draws.
        besides: fields in which a run to go on from may differ.

    Returns:
        0 if every claim holds, 1 if not, 130 after Ctrl-C.
    """
    kept, path = "", Path()
    alone = signal.getsignal(signal.SIGINT) is experiments.stop  # a process of its own

    def save(content: dict[str, Any], told: str) -> None:
        nonlocal kept
        save_json(path, head | content)
        kept = told

    try:
        options = parse(name, (doc or "").split("\n\n")[0], full, quick, help, argv)
        try:
            check(options.config)
        except ValueError as error:
            fail(f"--{error}")
        path = options.out / "results.json"
        if options.resume and not path.exists():
            fail(f"--resume: {path} does not exist; run without --resume first")
        with held(options.out):
            stored: dict[str, Any] = {}
            if options.resume:
                stored = load_results(path, options.config, options.seed, besides)
                kept = "what was finished before is"
            with double_precision():
                head = header(options.config, options.seed)
                if alone:  # what follows may be kept
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                report = work(Job(options.config, options.seed, options.out, stored, save))
                return conclude(path, head, report)
    except KeyboardInterrupt:
        found = f"{kept} kept in {path}; go on with --resume" if kept else "nothing was finished"
        print(f"\nstopped; {found}", file=sys.stderr, flush=True)
        if alone:  # JAX, stopped in the middle of compiling, may crash as Python tidies up
            sys.stdout.flush()
            os._exit(130)
        return 130


@contextmanager
def double_precision(double: bool = True) -> Iterator[None]:
    """JAX in float64 here, in every thread; afterwards as it was for whoever called."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", double)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def progress(pieces: list[list[int]], unit: str) -> Iterator[list[int]]:
    """The pieces one by one, with a bar that shows N and the time left; quiet off a terminal."""
    with tqdm(total=sum(map(len, pieces)), unit=unit, disable=None, leave=False) as bar:
        for piece in pieces:
            bar.set_description(f"N = {piece[0]}..{piece[-1]}" if piece[1:] else f"N = {piece[0]}")
            yield piece
            bar.update(len(piece))


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Save a figure as PNG for the screen and PDF for the paper."""
    # The mathematical fonts carry an odd date, of which the font writer warns.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    paths = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    for each in paths:
        figure.savefig(each, dpi=200)
    return paths


def print_table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table with aligned columns."""
    widths = [max(len(r[i]) for r in [heading, *rows]) for i in range(len(heading))]
    for row in [heading, tuple("-" * w for w in widths), *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print()


def conclude(path: Path, head: dict[str, Any], report: Report) -> int:
    """Save the results with their claims and print these; 0 if all hold, else 1."""
    claims = report.claims
    save_json(path, head | report.content | ({"claims": claims} if claims else {}))
    if report.rows:
        print_table(report.heading, report.rows)
    if claims:
        told = [(c.claim, c.measured, "holds" if c.holds else "DOES NOT HOLD") for c in claims]
        print_table(("claim", "measured", "verdict"), told)
    print("\n".join(str(p) for p in [path, *report.figures]))
    return 0 if all(c.holds for c in claims) else 1
