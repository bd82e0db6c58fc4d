"""How well a diagnostic ranks what VDN and QMIX lose: rank correlation and AUC, with intervals."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from .measuring import lost

# A team fails that loses more than this share of what there is to gain over random play.
FAILS = 0.05
# What a bootstrap interval covers.
_LEVEL = 0.95

DIAGNOSTICS = {
    "entanglement": "largest E_i",
    "entanglement_sum": "sum of E_i",
    "reward": "reward entanglement",
    "sum_error": "error of the sum",
    "vdn_error": "error of VDN",
    "qmix_error": "error of QMIX",
}


class Ranking(NamedTuple):
    """How well one diagnostic ranks one loss.

    Attributes:
        rows: exact, those of exact models alone, or all.
        question: which diagnostics of which policy, beside which loss.
        diagnostic: its name.
        method: vdn or qmix, whose loss.
        number: of pairs of the two.
        fails: how many of them fail.
        spearman: rank correlation, with the ends of its interval.
        auc: chance that the diagnostic is larger where the method fails, with the ends.
    """

    rows: str
    question: str
    diagnostic: str
    method: str
    number: int
    fails: int
    spearman: tuple[float, float, float]
    auc: tuple[float, float, float]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; NaN where one of them does not vary."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else np.nan


def auc(x: np.ndarray, fails: np.ndarray) -> float:
    """The chance that x is larger where it fails than where not, ties half; NaN without both."""
    bad, good = int(fails.sum()), int((~fails).sum())
    if not bad or not good:
        return np.nan
    return float((rankdata(x)[fails].sum() - bad * (bad + 1) / 2) / (bad * good))


def interval(
    value: Callable[..., float], groups: np.ndarray, *arrays: np.ndarray, seed: int, draws: int
) -> tuple[float, float, float]:
    """A value with its bootstrap interval, whole problems drawn with replacement."""
    if not len(groups):
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    drawn = []
    for _ in range(draws):
        which = np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])
        drawn.append(value(*(a[which] for a in arrays)))
    known = np.array(drawn)[~np.isnan(drawn)]
    tail = (1 - _LEVEL) / 2
    ends = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return value(*arrays), float(ends[0]), float(ends[1])


def regret(trained: dict[str, Any], kind: str) -> float:
    """The mean share that trained teams of a kind lose to the best that decide alone."""
    values = trained["returns"][kind]
    return float(np.mean([lost(trained["best"], trained["uniform"], v) for v in values]))


def rank(found: Sequence[dict[str, Any]], seed: int, draws: int) -> list[Ranking]:
    """Every diagnostic beside every loss, over the exact rows and, if there are others, over all.

    Before training: under random play, beside what trained teams lose. After training: under the
    trained team's own play, beside what it loses. Any policy: under each policy, beside what the
    greedy team of the fixed point of values for that policy loses.
    """
    exact = [each for each in found if each["trained"]["kind"] == "exact"]
    sets = {"exact": exact} if len(exact) == len(found) else {"exact": exact, "all": found}
    return [r for rows, some in sets.items() for r in _rank(rows, some, seed, draws)]


def _rank(rows: str, found: Sequence[dict[str, Any]], seed: int, draws: int) -> list[Ranking]:
    out = []
    for method in ("vdn", "qmix"):
        for question, of, loss in (
            ("before training", "uniform", regret),
            ("after training", method, regret),
            ("any policy", None, None),
        ):
            for diagnostic in DIAGNOSTICS:
                pairs = []
                for each in found:
                    for row in each["rows"]:
                        if of is not None and row["policy"] != of:
                            continue
                        y = loss(each["trained"], method) if loss else row[f"{method}_gap"]
                        if row[diagnostic] is not None and y is not None:
                            pairs.append((row["problem"], row[diagnostic], y))
                out.append(_ranking(rows, question, diagnostic, method, pairs, seed, draws))
    return out


def _ranking(
    rows: str,
    question: str,
    diagnostic: str,
    method: str,
    pairs: list[tuple[str, float, float]],
    seed: int,
    draws: int,
) -> Ranking:
    groups = np.array([name for name, _, _ in pairs])
    # Rounding is no rank.
    x, y = (np.round(np.array([p[k] for p in pairs], float), 6) for k in (1, 2))
    fails = y > FAILS
    return Ranking(
        rows=rows,
        question=question,
        diagnostic=diagnostic,
        method=method,
        number=len(pairs),
        fails=int(fails.sum()),
        spearman=interval(spearman, groups, x, y, seed=seed, draws=draws),
        auc=interval(auc, groups, x, fails, seed=seed, draws=draws),
    )
