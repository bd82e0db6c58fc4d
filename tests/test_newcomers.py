"""Three newcomers' jobs, from nothing but public names: they end, in few lines, with a picture.

Slow: each is a morning's work of somebody, a minute of a machine's.
"""

import io
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pytest

# Three agents, worn or new; working together pays more than working alone.
RESEARCHER = """
import jax, jax.numpy as jnp, numpy as np, optax, jaxent
from jaxent import plotting

rng = np.random.default_rng(0)
kernel = rng.dirichlet(np.ones(8), (2,) * 6).reshape((2,) * 9)
states, actions = np.indices((2,) * 6)[:3], np.indices((2,) * 6)[3:]
game = jaxent.CooperativeGame(kernel, (states * actions).sum(0) ** 1.5, discount=0.9)
family = jaxent.joint_softmax(game)
chain = jaxent.pair_chain(game, family.apply(family.init(jax.random.key(0))))
fit = jaxent.fit_additive(chain, game.pair_reward, discount=0.9)
error = jaxent.approximation_error(chain, game.pair_reward, fit.q_total, discount=0.9)
shares = jaxent.reward_entanglement(chain, game.pair_reward, jaxent.stationary_distribution(chain))
merge = jaxent.best_merge(chain, shares.minimizer, discount=0.9)
graph = jaxent.best_graph(chain, game.pair_reward, num_pairs=1, discount=0.9)

def look(theta):
    chain = jaxent.pair_chain(game, family.apply(theta))
    mu = jaxent.stationary_distribution(chain)
    q = jaxent.fit_additive(chain, game.pair_reward, discount=0.9, mu=mu).q_total
    missed = jaxent.q_values(chain, game.pair_reward, discount=0.9) - q
    return mu @ game.pair_reward, jnp.sqrt(mu @ missed**2)

def train(key, weight):
    theta, adam = family.init(key), optax.adam(0.1)
    loss = lambda theta: weight * look(theta)[1] - look(theta)[0]
    def step(carry, _):
        change, state = adam.update(jax.grad(loss)(carry[0]), carry[1])
        return (optax.apply_updates(carry[0], change), state), None
    theta, _ = jax.lax.scan(step, (theta, adam.init(theta)), length=40)[0]
    return look(theta)

grid = jnp.array([0.0, 0.1, 0.3, 1.0, 3.0])
keys = jax.random.split(jax.random.key(1), 64)
earned, missed = jax.jit(jax.vmap(jax.vmap(train, (0, None)), (None, 0)))(keys, grid)
ax = plotting.plot_front(missed.ravel(), earned.ravel())
"""

# Fifty machines of six states, fifteen repaired at a time.
OPERATIONS = """
import jax, numpy as np, jaxent
from jaxent import plotting

wear = np.diag([0.7] * 5 + [1.0]) + np.diag([0.3] * 5, 1)
repair = np.diag([1.0] + [0.2] * 5) + np.diag([0.8] * 5, -1)
earns = np.linspace(1, 0, 6)[:, None] - np.array([0.0, 0.2])
bandit = jaxent.RestlessBandit(wear, repair, earns, num_agents=50, budget=15, discount=0.9)
whittle = jaxent.whittle_index(bandit)
priority = jaxent.index_priority(whittle.index)
field = jaxent.mean_field(bandit, priority)
small = bandit._replace(num_agents=10, budget=3)
exact = {10: jaxent.ground_truth(small, priority)}
run = jaxent.simulate_counts(jax.random.key(0), bandit, priority, num_steps=20_000)
share = run.counts[:-1] / 50
seen = jaxent.entanglement_interval(run.policy[:-1], share)
columns = jaxent.product_grid(num_agents=[10, 50, 100, 200])
def one(key, row):
    some = bandit._replace(num_agents=row["num_agents"], budget=3 * row["num_agents"] // 10)
    run = jaxent.simulate_counts(key, some, priority, num_steps=2000, max_agents=200)
    share = run.counts[:-1] / row["num_agents"]
    return {"entanglement": jaxent.estimate_entanglement(run.policy[:-1], share).value}
table = jaxent.sweep(jax.random.key(1), one, columns)
ax = plotting.plot_over_agents("entanglement", exact=exact, simulated={50: seen}, limit=field)
"""

# Twelve sensors, of which one repeats its neighbor; rows are missing here and there.
ANALYST = """
import numpy as np, pandas as pd, jaxent
from jaxent.reporting.html_report import audit_html

rng = np.random.default_rng(0)
state = np.zeros((5000, 12), int)
for t in range(1, 5000):
    state[t] = state[t - 1] ^ (rng.random(12) < 0.1)
    if rng.random() < 0.7:
        state[t, 11] = state[t - 1, 10]
words = np.array(["quiet", "alarm"])[state]
names = [f"s{k}" for k in range(12)]
rows = pd.DataFrame({"t": np.repeat(np.arange(5000), 12), "agent": names * 5000, "action": "none"})
rows = rows.assign(state=words.ravel(), reward=state.ravel() * 1.0)
rows = rows.drop(index=rng.choice(len(rows), 40, replace=False))
found = jaxent.audit(jaxent.read_log(rows, allow_gaps=True), discount=0.8)
page = audit_html(found, source="sensors")
"""

# Two carts on springs that pull each other; positions and speeds are numbers.
NUMBERS = """
import numpy as np, pandas as pd, jaxent
from jaxent.reporting.html_report import audit_html

rng = np.random.default_rng(1)
x, v = np.zeros((8000, 2)), np.zeros((8000, 2))
for t in range(1, 8000):
    pull = 0.3 * (x[t - 1, ::-1] - x[t - 1]) - 0.2 * x[t - 1]
    v[t] = 0.7 * v[t - 1] + pull + 0.3 * rng.normal(size=2)
    x[t] = x[t - 1] + 0.5 * v[t]
rows = pd.DataFrame({"t": np.repeat(np.arange(8000), 2), "agent": ["left", "right"] * 8000})
rows = rows.assign(x=x.ravel(), v=v.ravel(), action="none", reward=-x.ravel() ** 2)
found = jaxent.audit(jaxent.read_log(rows, observations=["x", "v"]), discount=0.8)
page = audit_html(found, source="carts")
"""


def did(job, most_lines):
    """What a job leaves; it is short."""
    lines = [line for line in job.strip().splitlines() if line.strip()]
    assert len(lines) <= most_lines
    left = {}
    exec(textwrap.dedent(job), left)
    return left


def drawn(ax):
    content = io.BytesIO()
    ax.figure.savefig(content)
    plt.close(ax.figure)
    return len(content.getvalue())


@pytest.mark.slow
def test_a_researcher_of_values():
    """VDN's error in a bracket, what to merge, training with a penalty, a picture: 40 lines."""
    left = did(RESEARCHER, 42)
    error = left["error"]
    assert error.lower <= error.value <= error.upper
    assert error.converged
    assert error.value > 0
    assert left["graph"].errors[1] < left["graph"].errors[0]
    earned, missed = left["earned"], left["missed"]
    assert earned.shape == missed.shape == (5, 64)
    assert np.isfinite(earned).all()
    assert missed[-1].mean() < missed[0].mean()  # the penalty is felt
    assert drawn(left["ax"]) > 5000


@pytest.mark.slow
def test_an_operations_researcher():
    """Indices with a verdict, value and error, a sweep over N, a picture: 25 lines."""
    left = did(OPERATIONS, 26)
    assert left["whittle"].indexable
    for truth in left["exact"].values():
        assert truth.converged
    found = left["table"]["entanglement"]
    assert found.shape == (4,)
    assert np.isfinite(left["field"].entanglement_limit)
    assert abs(found[0] / left["exact"][10].entanglement - 1) < 0.1
    assert drawn(left["ax"]) > 5000


@pytest.mark.slow
def test_an_analyst_with_a_log():
    """A verdict, who is moved, what to do, a page to send on: 15 lines."""
    left = did(ANALYST, 16)
    found = left["found"]
    words = dict(zip(found.agents, found.words, strict=True))
    assert "entangled" in words["s11"]
    assert sum("entangled" in word for word in words.values()) <= 3
    assert found.headline in left["page"]
    # Who is moved by whom: the row of s11 has its largest number at s10.
    names = list(found.agents)
    moved = found.influence[names.index("s11")]
    assert names[int(np.argmax(moved))] == "s10"


@pytest.mark.slow
def test_an_analyst_with_numbers():
    """Continuous states: a verdict, both are moved, a page; 15 lines."""
    left = did(NUMBERS, 15)
    found = left["found"]
    assert all("entangled" in word for word in found.words)
    share = found.error.of_spread(found.error.limit)
    assert 0 < share.lower < share.value < share.upper
    assert found.headline in left["page"]
