"""Chains over several devices in a process of their own, for `test_sharding`.

python -m tests.sharding_worker OPTIONS    a JSON object, the keyword arguments of `main`
"""

import json
import os
import re
import sys
import time
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

import jaxent
from jaxent.chains import sharding
from jaxent.chains.stationary import solve_law

STATES, ACTIONS = (4, 3, 2), (2, 2, 1)
NEIGHBORS, SCOPES = ((0, 1), (1,), (2, 0)), ((0,), (2, 1), ())
RATE = 0.9
SMALL, LARGE = (5, (3, 2)), (20, (12, 5))  # exchangeable agents
COUNTED = ("soft", "soft, most active", "typed")


def rows(rng, *shape):
    """Rows of probabilities."""
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


@cache
def chains():
    """Name to chain and local rewards: each kind that can be spread, all small."""
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=pair) for pair in zip(STATES, ACTIONS, strict=True)]
    policy = rows(rng, *STATES, int(np.prod(ACTIONS))).reshape(STATES + ACTIONS)
    agents = tuple(
        jaxent.MDP(rows(rng, s, a, s), reward)
        for s, a, reward in zip(STATES, ACTIONS, rewards, strict=True)
    )
    reads = [
        rows(rng, *(STATES[j] for j in seen), *(ACTIONS[j] for j in seen), STATES[i])
        for i, seen in enumerate(NEIGHBORS)
    ]
    local = [rows(rng, *(STATES[j] for j in seen), ACTIONS[i]) for i, seen in enumerate(SCOPES)]
    factored = jaxent.FactoredMDP(tuple(reads), NEIGHBORS, tuple(rewards), RATE)
    local_policies = jaxent.LocalPolicies(tuple(map(jnp.asarray, local)), SCOPES)
    kernel = rows(rng, *STATES, *ACTIONS, int(np.prod(STATES)))
    joint = jaxent.JointMDP(
        jnp.asarray(kernel.reshape(STATES + ACTIONS + STATES)), tuple(rewards), RATE
    )
    bandit = jaxent.circulant_bandit(15)
    return {
        "weakly coupled": (
            jaxent.pair_chain(jaxent.WeaklyCoupledMDP(agents, RATE), policy),
            rewards,
        ),
        "factored": (jaxent.pair_chain(factored, local_policies), rewards),
        "joint": (jaxent.pair_chain(joint, policy), rewards),
        "exchangeable": (
            jaxent.exchangeable_chain(bandit, jaxent.CIRCULANT_PRIORITY),
            [bandit.reward],
        ),
    }


def chain_of(name):
    """A chain and local rewards by the name of its kind."""
    return counted(name) if name in COUNTED else chains()[name]


@cache
def counted(name, agents=11, counts=(8, 4)):
    """The same for exchangeable agents under other policies than a priority."""
    if name == "typed":
        population = teams(np.random.default_rng(2), (2, 4), counts)
        chain = jaxent.exchangeable_chain(population, either_first)
        return chain, [kind.mdp.reward for kind in population.types]
    policy = jaxent.SoftIndex(jnp.array([0.3, -0.2, 0.5, 0.0]), 0.2)
    budget = round({"soft": 0.3, "soft, most active": 0.7}[name] * agents)
    bandit = jaxent.circulant_bandit(15)._replace(num_agents=agents, budget=budget)
    return jaxent.exchangeable_chain(bandit, policy), [bandit.reward]


def teams(rng, states, counts):
    """Agents of several types with two actions, of which one costs 1."""
    types = [
        (
            jaxent.MDP(rows(rng, s, 2, s), rng.normal(size=(s, 2))),
            np.tile([[[0.0], [1]]], (s, 1, 1)),
        )
        for s in states
    ]
    return jaxent.WeaklyCoupledPopulation(types, counts, [sum(counts) // 3], RATE)


def either_first(counts):
    """Two of the types act before the others, or after them, with chances of 0.3 and 0.7."""
    return [(0.3, served(counts, 1)), (0.7, served(counts, -1))]


def served(counts, order):
    """Who acts where agents are served in the order of types and states, or in the reverse one."""
    left = sum(int(np.sum(n)) for n in counts) // 3
    split = [np.stack([n, 0 * n], axis=1) for n in map(np.asarray, counts)]
    for each in split[::order]:
        for row in each[::order]:
            act = min(left, row[0])
            row += (-act, act)
            left -= act
    return split


def large(agents):
    """A chain of so many agents of 8 pairs, and local rewards."""
    rng = np.random.default_rng(1)
    mdp = jaxent.WeaklyCoupledMDP(
        tuple(jaxent.MDP(rows(rng, 4, 2, 4), rng.normal(size=(4, 2))) for _ in range(agents)), RATE
    )
    policy = rng.random((4,) * agents + (2,) * agents)
    policy /= policy.sum(tuple(range(agents, 2 * agents)), keepdims=True)
    return jaxent.pair_chain(mdp, policy), mdp.rewards


@jax.jit
def products(chain, rewards):
    """The least of it: what all is made of."""
    law = chain.policy_vm(jnp.arange(1.0, chain.num_states + 1) / chain.num_states)
    return {"P v": chain.mv(law), "mu P": chain.vm(law), "sum": chain.lift(rewards)}


def answers(chain, rewards):
    """What is asked of a chain, by name."""
    mu = jaxent.stationary_distribution(chain)
    local = jaxent.local_q_values(chain, rewards, discount=RATE, mu=mu)
    found = jaxent.approximation_error(chain, rewards, local, discount=RATE, mu=mu, tol=1e-11)
    given = {"error": found.error, "value": found.value, "scale": found.scale}
    given |= {"mu": mu, "q": jaxent.q_values(chain, rewards, discount=RATE)}
    given |= {f"local {i}": q for i, q in enumerate(local)}
    given |= {"P v": chain.mv(mu), "mu P": chain.vm(mu)}
    return given | {"joint reward": jaxent.q_values(chain, given["q"], discount=RATE)}


def gradient(chain, rewards):
    """Of the error's size, in the rewards."""

    def error(rewards):
        zero = [0 * r for r in rewards]
        return jaxent.approximation_error(chain, rewards, zero, discount=RATE, tol=1e-11)

    made = jax.grad(lambda rewards: error(rewards).value)([jnp.asarray(r) for r in rewards])
    return {f"gradient {i}": g for i, g in enumerate(made)}


def moved(chain, rewards):
    """What the devices send each other for the error of a sum of local values: {kind: numbers}."""
    local = [jnp.asarray(r) for r in rewards]
    mu = chain.policy_vm(jnp.ones(chain.num_states) / chain.num_states)

    def error(chain, mu, local):
        return jaxent.approximation_error(chain, local, local, discount=RATE, mu=mu)

    program = jax.jit(error).lower(chain, mu, local).compile()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    sent = {}
    for shapes, kind in re.findall(rf"= (.+?) ({kinds})(?:-start)?\(", program.as_text()):
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            numbers = int(np.prod([int(n) for n in shape.split(",") if n]))
            sent[kind] = max(sent.get(kind, 0), numbers)
    plan = program.memory_analysis()
    sizes = plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes
    return sent | {"held": sizes}


def held(chain, rewards):
    """Bytes that a device holds of a law and of values: given, found, and coming and going."""

    def program(chain, rewards):
        return solve_law(chain).value, jaxent.solve_q(chain, rewards, discount=RATE).value

    plan = jax.jit(program).lower(chain, rewards).compile().memory_analysis()
    return plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes


def fetch(found):
    """Arrays that lie on several processes, on this one."""
    if all(x.is_fully_addressable for x in found.values()):
        return {name: np.asarray(x) for name, x in found.items()}
    return {
        name: np.asarray(multihost_utils.process_allgather(x, tiled=True))
        for name, x in found.items()
    }


def main(
    out,
    names,
    numbers=(None,),
    grad=False,
    small=(),
    large_of=(),
    agents=None,
    address=None,
    process=None,
    wait=0,
):
    """Write the answers of these chains on these numbers of devices to `out`.

    Of `small` ones, of few exchangeable agents, the products alone; of `large_of`, of many, what a
    device holds.
    """
    if "JAX_ENABLE_X64" not in os.environ:
        jax.config.update("jax_enable_x64", True)
    if address is not None or {"SLURM_JOB_ID", "OMPI_COMM_WORLD_RANK"} & set(os.environ):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        told = {} if address is None else {"num_processes": 2, "process_id": process}
        jax.distributed.initialize(address, heartbeat_timeout_seconds=10, **told)
    found = {}
    for number in numbers if agents else ():
        chain, rewards = large(agents)
        spread = jaxent.shard(chain, jax.devices()[:number])
        found[f"large {number} moved"] = np.array(json.dumps(moved(spread, rewards)))
    for name in small:
        chain, rewards = counted(name, *SMALL)
        for number in numbers:
            made = products(jaxent.shard(chain, jax.devices()[:number]), rewards)
            found |= fetch({f"{name} {number} {key}": x for key, x in made.items()})
    for name in large_of:
        chain, rewards = counted(name, *LARGE)
        for number in numbers:
            spread = jaxent.shard(chain, jax.devices()[:number])
            found[f"{name} {number} held"] = np.array(held(spread, rewards))
            found[f"{name} {number} estimate"] = sharding.bytes_needed(chain, number, "cpu")
    for name in names:
        chain, rewards = chain_of(name)
        for number in numbers:
            spread = jaxent.shard(chain, jax.devices()[:number])
            made = answers(spread, rewards) | (gradient(spread, rewards) if grad else {})
            made = {f"{name} {number} {key}": x for key, x in made.items()}
            found |= fetch(made)
            if name == "weakly coupled" and address is None:
                found[f"{name} {number} moved"] = np.array(json.dumps(moved(spread, rewards)))
            if wait:
                Path(f"{out}.begun.{process}").touch()
            stop = time.monotonic() + wait
            while time.monotonic() < stop:
                jax.block_until_ready(spread.vm(made[f"{name} {number} mu"]))
    np.savez(out, devices=jax.device_count(), processes=jax.process_count(), **found)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
