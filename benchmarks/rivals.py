"""Coupling beside error: what diagnostics of coordination say of a log, and by how much values err.

    python -m benchmarks.rivals [--quick] [--seed N] [--out DIR] [--write-page]

A few games of two or three agents, each played for 4000 steps. On the same log: the diagnostics of
`dec-pomdp-diagnostics` (Tessera et al. 2026) with its verdicts, transfer entropy counted by
PyInform and by jaxent, and the interval of the error of the sum of local values. Beside them what
is exact: transfer entropy, the entanglement of Eq. (7), the mean error. `--write-page` puts the
table in docs/theory/coupling-is-not-error.md. Ends with 1 if PyInform and jaxent count differently,
with 2 if a peer is not installed.
"""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxent
from benchmarks.__main__ import write_between
from experiments import command

PEERS = {"dec_pomdp_diagnostics": "dec-pomdp-diagnostics", "pyinform": "pyinform"}
PAGE = Path(__file__).parents[1] / "docs" / "theory" / "coupling-is-not-error.md"
DISCOUNT = 0.9
STEPS, QUICK_STEPS = 4000, 600
# PyInform and jaxent count the same transitions and differ by rounding alone.
SAME = 1e-10


class Game(NamedTuple):
    """A chain of agents with two actions each, and their rewards, `[X_i]` each."""

    name: str
    chain: jaxent.PairChain
    rewards: list[np.ndarray]


def games() -> list[Game]:
    """Where coupling and error go together, and where they do not."""
    mdp, shared = jaxent.example_1()
    free = jaxent.WeaklyCoupledMDP(mdp.agents, mdp.discount)
    paid = [np.ravel(r) for r in free.rewards]
    priority = np.asarray(jaxent.index_policy((0, 1), num_agents=2, budget=1))
    found = [
        Game(name, jaxent.pair_chain(free, policy), paid)
        for name, policy in (
            ("each acts by its own coin", np.full((2, 2, 2, 2), 0.25)),
            ("Example 1: one of the two acts, by a coin", shared),
            ("one of the two acts, by priority of states", priority),
        )
    ]
    chain, none = reader(), np.zeros(4)
    acting, being = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    return [
        *found,
        Game("one acts as the other is, paid to act", chain, [acting, none]),
        Game("the same, paid by its own state", chain, [being, none]),
        Game("one is moved if just one of two acts", exclusive_or(), [being, none[:2], none[:2]]),
    ]


def reader() -> jaxent.PairChain:
    """States last and no action moves them; agent 0 acts as agent 1 is, 4 times of 5."""
    slow = jnp.array([[0.9, 0.1], [0.1, 0.9]])
    agents = tuple(jaxent.MDP(jnp.repeat(slow[:, None], 2, 1), jnp.zeros((2, 2))) for _ in range(2))
    policy = np.zeros((2, 2, 2, 2))
    for s0, s1, a0, a1 in np.ndindex(2, 2, 2, 2):
        policy[s0, s1, a0, a1] = (0.8 if a0 == s1 else 0.2) / 2
    return jaxent.pair_chain(jaxent.WeaklyCoupledMDP(agents, DISCOUNT), policy)


def exclusive_or() -> jaxent.PairChain:
    """Three agents act by coins; agent 0 goes to state 1 if just one of the others did."""
    P = np.zeros((2, 2, 2, 2, 2, 2, 2, 2))  # s_0, a_0, a_1, a_2 and the next
    for a1, a2 in np.ndindex(2, 2):
        P[:, :, a1, a2, a1 ^ a2] = 1 / 8
    return jaxent.PairChain.from_matrix(P.reshape(16, 16), sizes=(4, 2, 2))


def code(pairs: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """One number for several, `[T, n]` to `[T]`."""
    return np.asarray(np.ravel_multi_index(tuple(pairs.T), tuple(sizes)))


def counted(pairs: np.ndarray, sizes: Sequence[int]) -> tuple[jaxent.PairChain, np.ndarray]:
    """The chain that a log `[T, N]` counts, and the law of its steps but the last."""
    joint, J = code(pairs, sizes), int(np.prod(sizes))
    flow = np.zeros((J, J))
    np.add.at(flow, (joint[:-1], joint[1:]), 1)
    visits = flow.sum(1, keepdims=True)
    P = np.where(visits > 0, flow / np.where(visits > 0, visits, 1), np.eye(J))
    return jaxent.PairChain.from_matrix(P, sizes=sizes), visits[:, 0] / visits.sum()


def by_pyinform(pairs: np.ndarray, sizes: Sequence[int], agent: int, *, memory: int = 1) -> float:
    """Transfer entropy from all others together, in nats."""
    from pyinform import transfer_entropy

    others = [k for k in range(len(sizes)) if k != agent]
    source = code(pairs[:, others], [sizes[k] for k in others])
    return float(transfer_entropy(source, pairs[:, agent], k=memory) * np.log(2))


def by_diagnostics(states: np.ndarray, actions: np.ndarray) -> dict[str, tuple[float, float, bool]]:
    """What dec-pomdp-diagnostics says: normalized value, its null, and its verdict."""
    import dec_pomdp_diagnostics as rival

    logging.getLogger(rival.__name__).setLevel(logging.ERROR)
    steps, num_agents = states.shape
    names = [f"agent_{i}" for i in range(num_agents)]
    time = np.arange(steps)
    data = rival.UserData(
        observations={a: states[:, i : i + 1].astype(float) for i, a in enumerate(names)},
        actions={a: actions[:, i].astype(np.int64) for i, a in enumerate(names)},
        timesteps={a: time for a in names},
        episode_ids={a: 0 * time for a in names},
        alg_name="FF",
    )
    found = rival.compute_diagnostics(data, metrics=("har", "pif", "aa", "dai"))
    columns = {
        "PIF": ("pifOARcond_ohist_max", "uses_hidden_teammate_info"),
        "AA": ("aaRcond_max", "synchronous_coordination"),
        "DAI": ("daiOARcond_ohist_max", "temporal_coordination"),
    }
    row = found.metrics
    return {
        name: (float(row[value]), float(row[f"{value}_null"]), bool(found.flags[flag]))
        for name, (value, flag) in columns.items()
    }


def play(game: Game, key: jax.Array, steps: int) -> dict[str, Any]:
    """One game, played and measured in every way."""
    chain = game.chain
    sizes, agents = chain.view_sizes, range(len(chain.views))
    rewards = [jnp.asarray(r) for r in game.rewards]
    log = jaxent.chain_trajectory(key, chain, rewards, num_steps=steps, num_actions=2)
    states, actions = np.asarray(log.states), np.asarray(log.actions)
    pairs = 2 * states + actions
    seen, often = counted(pairs, sizes)
    ours = [float(jaxent.transfer_entropy(seen, often, agent=i).value) for i in agents]
    peer = [by_pyinform(pairs, sizes, i) for i in agents]
    mu = jaxent.stationary_distribution(chain)
    local = jaxent.lstd_local_q(log, discount=DISCOUNT)
    error = jaxent.estimate_approximation_error(key, log, local, discount=DISCOUNT)
    exact = jaxent.decompose(chain, rewards, discount=DISCOUNT)
    spread = float(mu @ jnp.abs(exact.q_joint - mu @ exact.q_joint))
    measure = jaxent.entanglement_mu_atv_upper
    return {
        "game": game.name,
        "diagnostics": by_diagnostics(states, actions),
        "counted": ours,
        "apart": max(abs(a - b) for a, b in zip(ours, peer, strict=True)),
        "told": [float(jaxent.transfer_entropy(chain, mu, agent=i).value) for i in agents],
        "entanglement": [float(measure(chain, mu, agent=i).value) for i in agents],
        "error": float(exact.mu_error),
        "spread": spread,
        "interval": (float(error.centered.lower), float(error.centered.upper)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    rival = list(rows[0]["diagnostics"])
    head = ["game", *rival, "counted, nats", "transfer entropy, nats", "Eq. (7)"]
    head += ["mean error, of the spread", "from the log"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["game"]]
        for value, null, says in row["diagnostics"].values():
            cells.append(f"{'**yes**' if says else 'no'}, {value:.2f} ({null:.2f})")
        cells += [", ".join(f"{x:.3f}" for x in row[k]) for k in ("counted", "told")]
        cells.append(", ".join(f"{abs(x):.3f}" for x in row["entanglement"]))
        part, (low, high) = row["spread"], row["interval"]
        cells += [f"{row['error'] / part:.1%}", f"{low / part:.1%} to {high / part:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Play all games and print the table; 0 if PyInform counts what jaxent does."""
    about = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=about)
    parser.add_argument("--quick", action="store_true", help="short logs, to see that all works")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results") / "benchmarks")
    parser.add_argument("--write-page", action="store_true", help="put the table in its page")
    options = parser.parse_args(argv)
    missing = [name for module, name in PEERS.items() if not importlib.util.find_spec(module)]
    if missing:
        command.fail(f"not installed: {', '.join(missing)}; install jaxent[benchmarks]")
    command.open_folder(options.out)
    steps = QUICK_STEPS if options.quick else STEPS
    with command.double_precision():
        keys = jax.random.split(jax.random.key(options.seed), len(games()))
        rows = [play(game, key, steps) for game, key in zip(games(), keys, strict=True)]
    command.save_json(options.out / "rivals.json", {"seed": options.seed, "rows": rows})
    text = table(rows)
    print(text)
    if options.write_page:
        write_between(text, "rivals", PAGE)
    return 0 if all(row["apart"] <= SAME for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
