"""The command of the atlas: `python -m experiments.atlas`.

Team problems, exact models of their rules, under random play, a rule of thumb, and teams trained by
independent policy gradients, VDN and QMIX: how entangled agents are, how far the reward and the
values are from sums, what VDN and QMIX lose, and which diagnostic tells it.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import command
from experiments.command import Claim

from .diagnosing import DIAGNOSTICS, Ranking, rank, regret
from .drawing_atlas import figures
from .measuring import Budget, Row, measure
from .problems import PROBLEMS
from .sampled import SAMPLED, Skipped
from .sampled import measure as measure_sampled


class Config(NamedTuple):
    """What is computed.

    Attributes:
        only: names of problems.
        seeds: trainings of each kind.
        targets: renewals of the target of Q-learning.
        steps: of policy gradients.
        starts: of a mixture fitted for a policy.
        renewals: of its target.
        draws: bootstrap samples.
    """

    only: tuple[str, ...] = tuple(PROBLEMS)
    seeds: int = 3
    targets: int = 200
    steps: int = 300
    starts: int = 4
    renewals: int = 100
    draws: int = 1000


QUICK = Config(
    only=tuple(name for name, problem in PROBLEMS.items() if problem.quick),
    seeds=1,
    targets=60,
    steps=100,
    starts=2,
    renewals=30,
    draws=100,
)

HELP = {
    "only": "which problems; those that are only sampled are asked for by name",
    "seeds": "trainings of each kind",
    "targets": "how often Q-learning renews its target",
    "steps": "steps of policy gradients",
    "starts": "starts of a mixture that is fitted for a policy, on small problems",
    "renewals": "how often its target is renewed",
    "draws": "bootstrap samples of the intervals",
}

# Numbers that rounding and an iteration may leave where theory has 0.
_NONE = 1e-4
HEADING = (
    "problem", "states", "agents", "E_i", "reward", "sum", "VDN", "QMIX",
    "gradient loses", "VDN loses", "QMIX loses", "best alone", "best joint", "numbers",
)  # fmt: skip


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    known = [*PROBLEMS, *SAMPLED]
    if unknown := set(config.only) - set(known):
        raise ValueError(f"only: {sorted(unknown)[0]!r} is not one of {', '.join(known)}")
    command.at_least(config, seeds=1, targets=1, steps=1, starts=1, renewals=1, draws=1)


def claims(found: list[dict[str, Any]]) -> list[Claim]:
    """What theory says, beside what was measured."""
    sums, best, over, sure = [0.0], [0.0], [-np.inf], []
    for each in found:
        trained = each["trained"]
        if trained["kind"] != "exact":
            continue
        unit = max(abs(trained["joint"]), abs(trained["uniform"]), 1e-12)
        over.append((trained["best"] - trained["joint"]) / unit)
        for row in each["rows"]:
            if row["entanglement"] is None or row["reward"] is None:
                continue
            if row["entanglement"] < 1e-9 and row["reward"] < _NONE:
                sums.append(row["sum_error"])
            if row["reward"] < _NONE and row["sum_error"] < _NONE:
                best.append(row["vdn_error"])
        if trained["problem"] in ("additive", "independent"):
            sure += [regret(trained, kind) for kind in ("vdn", "qmix", "independent")]
    out = [
        Claim("no E_i, reward a sum: the sum of values is exact", f"to {max(sums):.1g}",
              max(sums) < 100 * _NONE),
        Claim("where the sum is exact, VDN is", f"to {max(best):.1g}", max(best) < 100 * _NONE),
        Claim("nobody returns more than the best joint policy", f"by {max(over):.1g}",
              max(over) < 1e-6),
    ]  # fmt: skip
    if sure:
        told = f"at most {max(sure):.1g}"
        out.append(Claim("nothing is lost where nothing is shared", told, max(sure) < 1e-6))
    return out


def table(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line a problem: diagnostics under random play, and what trained teams lose."""
    lines = []
    for each in found:
        trained = each["trained"]
        row = next(r for r in each["rows"] if r["policy"] == "uniform")
        told = [row[k] for k in ("entanglement", "reward", "sum_error", "vdn_error", "qmix_error")]
        losses = [regret(trained, kind) for kind in ("independent", "vdn", "qmix")]
        lines.append(
            (
                trained["problem"],
                str(trained["states"] or "-"),
                str(trained["agents"]),
                *("-" if x is None else f"{x:.3f}" for x in told),
                *(f"{x:.3f}" for x in losses),
                f"{'' if trained['certain'] else '>= '}{trained['best']:.4g}",
                "-" if trained["joint"] is None else f"{trained['joint']:.4g}",
                trained["kind"],
            )
        )
    return lines


def save_rows(found: list[dict[str, Any]], path: Path) -> Path:
    """All rows as CSV, beside what trained teams lose."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        extra = ("family", "states", "agents", "best_alone", "best_joint", "gradient_loses",
                 "vdn_loses", "qmix_loses")  # fmt: skip
        writer.writerow((*Row._fields, *extra))
        for each in found:
            trained = each["trained"]
            losses = [regret(trained, kind) for kind in ("independent", "vdn", "qmix")]
            tail = [trained[k] for k in ("family", "states", "agents", "best", "joint")] + losses
            for row in each["rows"]:
                writer.writerow([_cell(row.get(k)) for k in Row._fields] + [_cell(x) for x in tail])
    return path


def _cell(value: Any) -> str:
    """A number on few digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def told(rankings: list[Ranking]) -> list[tuple[str, ...]]:
    """Correlations as lines of a table."""

    def ends(x: tuple[float, float, float]) -> str:
        return "-" if np.isnan(x[0]) else f"{x[0]:.2f} ({x[1]:.2f}, {x[2]:.2f})"

    return [
        (r.rows, r.question, r.method.upper(), DIAGNOSTICS[r.diagnostic], ends(r.spearman),
         ends(r.auc), f"{r.fails} of {r.number}")
        for r in rankings
    ]  # fmt: skip


def work(job: command.Job) -> command.Report:
    """Every problem that is not stored, and the picture."""
    config = job.config
    kept = {each["trained"]["problem"]: each for each in job.stored.get("found", [])}
    budget = Budget(*config[1:6])
    order = sorted(config.only, key=_lasts)
    for done, name in enumerate(order):
        if name not in kept:
            exact = name in PROBLEMS
            made = measure(name, job.seed, budget) if exact else measure_sampled(name, job.seed)
            if isinstance(made, Skipped):
                print(f"{name}: left out, {made.reason}", flush=True)
                continue
            kept[name] = command.plain(made)
            jax.clear_caches()  # few problems share shapes, and programs fill gigabytes
            print(f"{name}: {done + 1} of {len(config.only)}", flush=True)
            job.save({"found": list(kept.values())}, f"{len(kept)} problems are")
    found = [kept[name] for name in (*PROBLEMS, *SAMPLED) if name in config.only and name in kept]
    if not found:
        command.fail("--only: none of these can be measured here")
    rankings = rank(found, job.seed, config.draws)
    files = [*figures(found, rankings, job.out), save_rows(found, job.out / "atlas.csv")]
    heading = ("rows", "diagnostics", "method", "which", "Spearman", "AUC of a failure", "failures")
    command.print_table(heading, told(rankings))
    content = {"found": list(kept.values()), "rankings": rankings}
    return command.Report(content, claims(found), files, HEADING, table(found))


def _lasts(name: str) -> int:
    """Those that take longest come last."""
    return 2 if name in SAMPLED else int(PROBLEMS[name].large)


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run(
        "atlas",
        __doc__,
        Config(),
        QUICK,
        HELP,
        argv,
        check=check,
        work=work,
        besides=("only", "draws"),
    )
