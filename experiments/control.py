"""Which number tells that greedy agents will fail? Named and random games, VDN, QMIX and others.

In each game agents are greedy by a fit of their own values that has seen uniform play: a sum (VDN),
a monotone mixture (QMIX), the same with central weights (weighted QMIX), and any function that is
largest where each agent is greedy (QPLEX). All are exact fixed points, nothing is trained. What a
team loses to the best agents that decide on their own, as a share of what these gain over uniform
play, is its regret.

Beside it stand numbers that one might look at for a warning: how much of the reward, or of the
values, no sum explains by uniform play; the entanglement of the agents, by uniform play and by
VDN's own; and the error of VDN on its own play. Each is judged by how often it ranks a game in
which VDN fails above one in which it does not (AUC; 1/2 is a coin), with a bootstrap interval over
games.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxent
from experiments import command
from jaxent import plotting

DISCOUNT = 0.9
# A team fails that loses more than this share of what there is to gain.
FAILS = 0.01
# Chance of another action in VDN's own play; weight of worse joint actions in weighted QMIX.
EPSILON, ALPHA = 0.05, 0.01
RESAMPLED = 4000


class Config(NamedTuple):
    """What is computed.

    Attributes:
        games: random games of each family.
        states: of a random game.
    """

    games: int = 12
    states: int = 4


QUICK = Config(games=4)

HELP = {
    "games": "random games of each of 6 families, beside those with names",
    "states": "joint states of a random game, from 2 to 8",
}

FITS = {
    "VDN": jaxent.fit_additive,
    "QMIX": jaxent.fit_isotonic,
    "weighted QMIX": partial(jaxent.fit_weighted, alpha=ALPHA),
    "QPLEX": jaxent.fit_igm,
}

WARNINGS = {
    "reward": "reward, uniform play",
    "values": "values, uniform play",
    "entangled": "sum of E_i, uniform play",
    "entangled_own": "sum of E_i, own play",
    "error_own": "error, own play",
}

MATRIX = {
    "climbing": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],
    "mild climbing": [[11, -3, 0], [-3, 7, 6], [0, 0, 5]],
    "penalty 100": [[10, 0, -100], [0, 2, 0], [-100, 0, 10]],
    "penalty 30": [[10, 0, -30], [0, 2, 0], [-30, 0, 10]],
    "penalty 10": [[10, 0, -10], [0, 2, 0], [-10, 0, 10]],
    "penalty 0": [[10, 0, 0], [0, 2, 0], [0, 0, 10]],
    "QTRAN": [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],
    "mild QTRAN": [[8, -3, -3], [-3, 0, 0], [-3, 0, 0]],
    "stag hunt": [[9, -9, -9], [8, 4, 4], [7, 4, 6]],
    "three meeting places": [[5, 0, 0], [0, 6, 0], [0, 0, 7]],
    "any meeting place": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "each its own": [[0, 1, 2], [2, 3, 4], [5, 6, 7]],
    "both together": [[0, 0, 0], [0, 1, 2], [0, 2, 4]],
    "either of them": [[0, 2, 4], [2, 2, 4], [4, 4, 4]],
    "not both": [[0, 3, 5], [3, 1, 0], [5, 0, -9]],
}

FAMILIES = {
    "sum, alone": (0.0, False, True),
    "sum, coupled": (0.0, True, True),
    "weak interaction": (0.3, True, True),
    "interaction": (1.0, True, True),
    "strong interaction": (3.0, True, True),
    "interaction, half seen": (1.0, True, False),
}


class Row(NamedTuple):
    """One game.

    Attributes:
        game: its name.
        regret: of each of `FITS`, by its name.
        warnings: each of `WARNINGS`.
        converged: of each of `FITS`.
    """

    game: str
    regret: dict[str, float]
    warnings: dict[str, float]
    converged: dict[str, bool]


def matrix_game(pay: Any) -> jaxent.StateMDP:
    """One state, played for ever."""
    pay = jnp.asarray(pay, float)[None]
    stay = (jnp.zeros((*pay.shape, 1), int), jnp.ones((*pay.shape, 1)))
    return jaxent.StateMDP(stay, ((0,), (0,)), pay, DISCOUNT)


def two_steps(safe: float) -> jaxent.StateMDP:
    """Agent 0 chooses: `safe` whatever is done, or a game that pays 0, 1 or 8; then anew."""
    to = np.array([[1, 1], [2, 2]])[None].repeat(3, 0)
    to[1:] = 3
    pay = jnp.array([np.zeros((2, 2)), np.full((2, 2), safe), [[0, 1], [1, 8]]])
    chances = jnp.ones((3, 2, 2, 1))
    start = jnp.array([1.0, 0, 0])
    return jaxent.StateMDP((to[..., None], chances), ((0, 1, 2),) * 2, pay, DISCOUNT, start)


def random_game(
    rng: np.random.Generator, states: int, strength: float, coupled: bool, seen: bool
) -> jaxent.StateMDP:
    """Two agents of three actions; outcomes are drawn from three next states.

    Args:
        rng: of every number.
        states: S.
        strength: of the part of the reward that is for both actions together.
        coupled: whether the next state depends on both actions, or on agent 0's alone.
        seen: whether both see the state; else agent 1 sees half of it.
    """
    to = rng.integers(0, states, (states, 3, 3, 3))
    chances = rng.dirichlet(np.ones(3), (states, 3, 3))
    if not coupled:
        to, chances = (np.broadcast_to(x[:, :, :1], x.shape) for x in (to, chances))
    to = to.copy()
    to[..., 0] = rng.integers(states)  # one class, whatever is played
    chances = 0.9 * chances + 0.1 / 3
    own = rng.normal(size=(2, states, 3))
    pay = own[0][:, :, None] + own[1][:, None] + strength * rng.normal(size=(states, 3, 3))
    views = (tuple(range(states)), tuple(s if seen else s // 2 for s in range(states)))
    return jaxent.StateMDP((to, chances), views, jnp.asarray(pay), DISCOUNT)


def games(seed: int, config: Config) -> dict[str, Any]:
    """All games by their names."""
    found = {name: matrix_game(pay) for name, pay in MATRIX.items()}
    for safe in (7, 3):
        found[f"two steps, {safe}"] = two_steps(safe)
    for k, (family, how) in enumerate(FAMILIES.items()):
        for j in range(config.games):
            rng = np.random.default_rng((seed, k, j))
            found[f"{family} {j}"] = random_game(rng, config.states, *how)
    return found


def entangled(chain: jaxent.PairChain, mu: Any) -> float:
    """The sum of E_i, right-hand sides of Eq. 7."""
    return sum(float(jaxent.entanglement_mu_atv_upper(chain, mu, agent=i).value) for i in range(2))


def unexplained(fit: jaxent.ValueFit) -> float:
    """The share of the variance of Q that a sum leaves."""
    variance = fit.mu @ (fit.q_joint - fit.mu @ fit.q_joint) ** 2
    return float(fit.mu @ fit.error**2 / variance) if variance > 0 else 0.0


def measure(name: str, mdp: Any) -> Row:
    """What each team loses, and what one might look at."""
    found = {fit: jaxent.greedy_fixed_point(mdp, how) for fit, how in FITS.items()}
    uniform = jaxent.pair_chain(mdp, jaxent.uniform_policy(mdp))
    law = jaxent.stationary_distribution(uniform)
    q = jaxent.q_values(uniform, mdp.rewards, discount=DISCOUNT)
    start = jnp.full(mdp.num_states, 1 / mdp.num_states) if mdp.start is None else mdp.start
    idle = float(start @ uniform.policy.mv(q))
    best = found["VDN"].gap.decentralized_upper
    gain = best - idle

    def regret(gap: jaxent.GreedyGap) -> float:
        lost = max(gap.lost_alone[1], 0.0)
        return lost / gain if gain > 0 else 0.0

    play = jaxent.epsilon_greedy(mdp, found["VDN"].fit, epsilon=EPSILON)
    own = jaxent.pair_chain(mdp, play)
    on_own = jaxent.fit_additive(own, mdp.rewards, discount=DISCOUNT)
    scale = float(on_own.mu @ jnp.abs(on_own.q_joint))
    nearest = jaxent.fit_additive(uniform, q, discount=0.0, mu=law)
    warnings = {
        "reward": float(jaxent.reward_interaction(mdp).share),
        "values": unexplained(nearest),
        "entangled": entangled(uniform, law),
        "entangled_own": entangled(own, on_own.mu),
        "error_own": float(on_own.mu_error) / scale if scale > 0 else 0.0,
    }
    return Row(
        name,
        {fit: regret(x.gap) for fit, x in found.items()},
        warnings,
        {fit: bool(x.converged) for fit, x in found.items()},
    )


def ranked(score: np.ndarray, fails: np.ndarray) -> float:
    """How often a game that fails has the larger number, of all pairs; ties count half."""
    bad, good = score[fails], score[~fails]
    if not len(bad) or not len(good):
        return np.nan
    apart = bad[:, None] - good
    # What differs by rounding alone is a tie.
    noise = 1e-9 * np.abs(score).max()
    return float(((apart > noise) + 0.5 * (np.abs(apart) <= noise)).mean())


def resampled(scores: dict[str, np.ndarray], fails: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The same for games drawn again, `[RESAMPLED]` each, the same ones for all."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(fails), size=(RESAMPLED, len(fails)))
    return {
        name: np.array([ranked(score[d], fails[d]) for d in drawn])
        for name, score in scores.items()
    }


class Told(NamedTuple):
    """How well a number warns of a team.

    Attributes:
        auc: see `ranked`.
        lower: end of its 95% interval.
        upper: end of its 95% interval.
        behind: of `reward`, the AUC less this one, ends of the 95% interval.
    """

    auc: float
    lower: float
    upper: float
    behind: tuple[float, float]


def told(rows: list[Row], team: str, seed: int) -> dict[str, Told]:
    """Of every warning: how well it tells where a team fails."""
    fails = np.array([row.regret[team] > FAILS for row in rows])
    scores = {name: np.array([row.warnings[name] for row in rows]) for name in WARNINGS}
    again = resampled(scores, fails, seed)
    found = {}
    for name, score in scores.items():
        low, high = np.nanquantile(again[name], [0.025, 0.975]).tolist()
        behind = np.nanquantile(again["reward"] - again[name], [0.025, 0.975]).tolist()
        found[name] = Told(ranked(score, fails), low, high, tuple(behind))
    return found


def claims(rows: list[Row], seed: int) -> list[command.Claim]:
    """What one learns, beside what was measured."""
    reward = told(rows, "VDN", seed)["reward"]
    seen = [row for row in rows if "half seen" not in row.game]
    worst = {fit: max(row.regret[fit] for row in seen) for fit in FITS}
    fails = {fit: sum(row.regret[fit] > FAILS for row in rows) for fit in FITS}
    climbing = next(row for row in rows if row.game == "climbing")
    return [
        command.Claim(
            "QPLEX's class loses nothing where agents see the state",
            f"at most {worst['QPLEX']:.1g} of {len(seen)} games",
            worst["QPLEX"] < 1e-6,
        ),
        command.Claim(
            "VDN fails in more games than QMIX, and QMIX than QPLEX",
            ", ".join(f"{fit} {n}" for fit, n in fails.items()) + f" of {len(rows)}",
            fails["VDN"] >= fails["QMIX"] >= fails["QPLEX"],
        ),
        command.Claim(
            "the reward by uniform play warns of VDN better than a coin",
            f"AUC {reward.auc:.2f} ({reward.lower:.2f} to {reward.upper:.2f})",
            reward.lower > 0.5,
        ),
        command.Claim(
            "climbing: VDN loses much, and errs little on its own play",
            f"regret {climbing.regret['VDN']:.0%}, error {climbing.warnings['error_own']:.1%}",
            climbing.regret["VDN"] > 0.3 and climbing.warnings["error_own"] < 0.01,
        ),
    ]


def figures(rows: list[Row], seed: int, out: Path) -> list[Path]:
    """Regret of VDN over what warns best, and how well each number warns."""
    found = told(rows, "VDN", seed)
    with plotting.style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        named = [row for row in rows if row.game in MATRIX or row.game.startswith("two")]
        others = [row for row in rows if row not in named]
        for part, color, marker, label in (
            (named, plotting.RED, "s", "named games"),
            (others, plotting.BLUE, "o", "random games"),
        ):
            x = [row.warnings["reward"] for row in part]
            y = [row.regret["VDN"] for row in part]
            left.plot(x, y, marker, color=color, label=label, alpha=0.7, lw=0)
        left.set(xlabel="share of the reward that is no sum, uniform play", ylabel="regret of VDN")
        left.legend(loc="upper left")
        place = np.arange(len(WARNINGS))[::-1]
        values = np.array([found[name].auc for name in WARNINGS])
        ends = np.array([[t.auc - t.lower, t.upper - t.auc] for t in found.values()]).T
        right.errorbar(values, place, xerr=ends, fmt="o", color=plotting.BLUE, capsize=2)
        right.axvline(0.5, color=plotting.GRAY, lw=0.8, ls=":")
        right.set_yticks(place, [WARNINGS[name] for name in WARNINGS])
        right.set(xlabel="AUC: warns of VDN's failures", xlim=(0, 1.02))
        return command.save_figure(figure, out / "control")


def check(config: Config) -> None:
    """Raise a ValueError that names the field unless the config makes sense."""
    command.at_least(config, games=1, states=2)
    if config.states > 8:
        raise ValueError(f"states: {config.states} is more than 8")


def work(job: command.Job) -> command.Report:
    """Every game that is not stored, and the figure."""
    done = {row["game"]: Row(**row) for row in job.stored.get("games", [])}
    todo = games(job.seed, job.config)
    for name, mdp in todo.items():
        if name not in done:
            done[name] = measure(name, mdp)
            job.save({"games": list(done.values())}, f"{len(done)} of {len(todo)} games are")
    rows = [done[name] for name in todo]
    aucs = {team: told(rows, team, job.seed) for team in ("VDN", "QMIX", "weighted QMIX")}
    table = [(WARNINGS[name], *(_shown(aucs[team][name]) for team in aucs)) for name in WARNINGS]
    for name in WARNINGS:
        low, high = aucs["VDN"][name].behind
        worst = max((row.warnings[name] for row in rows if row.regret["VDN"] > FAILS), default=0)
        table[list(WARNINGS).index(name)] += (f"{low:+.2f} to {high:+.2f}", f"{worst:.2g}")
    return command.Report(
        {"games": rows, "auc": aucs},
        claims(rows, job.seed),
        figures(rows, job.seed, job.out),
        ("AUC of", *(f"{team} fails" for team in aucs), "reward better by", "most where VDN fails"),
        table,
    )


def _shown(part: Told) -> str:
    if np.isnan(part.auc):
        return "none fails"
    return f"{part.auc:.2f} ({part.lower:.2f} to {part.upper:.2f})"


def main(argv: list[str] | None = None) -> int:
    """Compute, draw and print; 0 if every claim holds."""
    return command.run(
        "control", __doc__, Config(), QUICK, HELP, argv, check=check, work=work
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
