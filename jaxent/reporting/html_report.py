"""An audit as one page to send on: an HTML file that needs nothing else, no network, no program.

The page is a template (`report.html.j2`), and whatever comes from the log is escaped there. A
policy in its head forbids it to load anything.
"""

import base64
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..auditing.result import Audit, error_rows
from ..auditing.team_error import TeamError
from ..auditing.verdict import percent, ranged
from ..data.log_table import printable

# Rows of a long table.
_PAIRS = 30
_PACKAGES = ("jax", "jaxlib", "numpy", "scipy")


class Row(NamedTuple):
    """One of the numbers of an approximation's error."""

    what: str
    size: str
    of_spread: str
    of_size: str


def audit_html(found: Audit, *, source: str = "", made: datetime | None = None) -> str:
    """The page.

    Args:
        found: of `audit`.
        source: where the log came from, as the reader knows it.
        made: when; now if not given.

    Raises:
        ImportError: if jinja2 is not installed.
        ValueError: for something else than an audit.
    """
    if not isinstance(found, Audit):
        raise ValueError(f"found: {type(found).__name__} is not of Audit; audit gives it")
    made = datetime.now(UTC) if made is None else made
    return _template().render(
        found=found,
        source=source,
        made=made.strftime("%Y-%m-%d %H:%M %Z").strip(),
        errors=[_error(error) for error in found.errors],
        agents=_agents(found),
        influence=_influence(found),
        pairs=_pairs(found),
        pictures=_pictures(found),
        versions={"jaxent": __version__} | {name: version(name) for name in _PACKAGES},
        python=platform.python_version(),
    )


def _template() -> Any:
    try:
        import jinja2
    except ImportError as missing:
        raise ImportError(
            f"a report in HTML needs jinja2: pip install 'jaxent[audit]' ({missing})"
        ) from None
    loader = jinja2.PackageLoader("jaxent.reporting", ".")
    undefined = jinja2.StrictUndefined
    env = jinja2.Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True)
    env.filters |= {"label": lambda label: printable(label, 60), "percent": percent}
    return env.get_template("report.html.j2")


def _error(error: TeamError) -> dict[str, Any]:
    """What an approximation misses, number by number."""
    rows = []
    for what, part in error_rows(error):
        told = f"{part.value:.4g} ({part.lower:.4g} to {part.upper:.4g})"
        rows.append(Row(what, told, ranged(error.of_spread(part)), ranged(error.of_scale(part))))
    return {"error": error, "rows": rows if error.is_told else []}


def _agents(found: Audit) -> list[dict[str, Any]]:
    """A row an agent, the most entangled first."""
    order = np.argsort(-np.nan_to_num(found.entanglement, nan=-1), kind="stable")
    return [
        {
            "agent": found.agents[i],
            "word": found.words[i],
            "reason": found.reasons[i],
            "value": found.entanglement[i],
            "lower": found.lower[i],
            "upper": found.upper[i],
            "p_value": found.p_value[i],
            "share": found.share[i],
        }
        for i in order
    ]


def _influence(found: Audit) -> list[list[dict[str, Any]]]:
    """Who is moved by whom, where the audit has it, with the shade of each cell from 0 to 1."""
    table = found.influence
    most = np.nanmax(table, initial=0) or 1.0
    return [[{"value": value, "shade": value / most} for value in row] for row in table]


def _pairs(found: Audit) -> list[dict[str, Any]]:
    """The local pairs in which the values are most wrong, by how often they come."""
    wrong = np.nan_to_num(found.error.by_pair)
    if wrong.shape != found.occupancy.shape:
        return []
    most = np.argsort(-(wrong * found.occupancy), axis=None, kind="stable")[:_PAIRS]
    rows = []
    for i, x in zip(*np.unravel_index(most, wrong.shape), strict=True):
        if wrong[i, x] > 0:
            rows.append(
                {
                    "agent": found.agents[i],
                    "pair": found.pairs[x],
                    "error": wrong[i, x],
                    "share": found.occupancy[i, x],
                    "value": found.q_local[i, x],
                }
            )
    return rows


def _pictures(found: Audit) -> dict[str, str]:
    """Pictures as addresses that hold them, letters drawn as lines."""
    from .. import plotting

    return {
        "errors": _picture(plotting.plot_audit_errors, found),
        "agents": _picture(plotting.plot_audit_agents, found),
    }


def _picture(draw: Callable[..., object], found: Audit) -> str:
    from .. import plotting

    with plotting.style():
        svg = plotting.as_svg(lambda ax: draw(found, ax=ax), size=(5, 3))
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
