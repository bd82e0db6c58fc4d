"""Simulation of arms that all differ, and their priority by what actions gain at given prices."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_positive_int, check_shape, concrete
from .._reads import reads
from ..models.contracts import ArrayLike
from ..models.heterogeneous_arms import HeterogeneousArms
from ..numerics.compiled import jit
from .agents_process import AgentsPolicy, AgentsProcess
from .arms_relaxation import ArmsRelaxation
from .in_turn import Agents, agents_of_arms

Array = jax.Array


@reads("{0.reward.shape[0]} epochs of {0.states.shape[0]} arms; budgets kept: {0.kept}")
class ArmsTrajectory(NamedTuple):
    """A run of arms that all differ.

    Attributes:
        reward: of all arms at epochs 0..T - 1, `[T]`.
        spent: of each resource at epochs 0..T - 1, `[T, K]`.
        states: at epoch T, from which another run may go on, `[N]` int32.
        kept: whether every budget was kept at all epochs.
    """

    reward: Array
    spent: Array
    states: Array
    kept: Array


@reads("a priority of {0.gain.shape[0]} arms by what actions gain")
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ArmsPriority:
    """Arms served by what their actions gain over the cheapest, the largest gain first.

    Every arm asks for its best action, in the order of the gains; those that are refused ask for
    their next best, and so on down to the cheapest. Equal gains are ordered at random.

    Attributes:
        agents: N of them, their costs and budgets.
        gain: of action a in state s over the cheapest of the state, `[N, S, A]`.
    """

    agents: Agents
    gain: Array

    def start(self, key: Array, states: Array) -> tuple[()]:
        """Nothing to remember."""
        del key
        self.agents.check(states)
        return ()

    def act(self, key: Array, states: Array, memory: tuple[()]) -> tuple[Array, tuple[()]]:
        """Actions `[N]`."""
        arm = self.agents.kind
        gain = self.gain[arm, states]  # [N, A]
        cheap = self.agents.ladder[arm, states, 0]
        ties = jax.random.bits(key, arm.shape, jnp.uint32)
        place = jnp.arange(gain.shape[1])[None]

        def ask(state: tuple[Array, Array, Array], none: None):
            """Each for the best action that it was not refused yet."""
            del none
            actions, left, worth = state
            best, most = worth.argmax(1).astype(jnp.int32), worth.max(1)
            _, _, order = lax.sort((-most, ties, arm), num_keys=2)
            wanted = jnp.where((most > 0) & (actions == cheap), best, actions)
            actions, left = self.agents.climb(states, actions, wanted, order, left)
            return (actions, left, jnp.where(place == best[:, None], -jnp.inf, worth)), None

        begin = (cheap, self.agents.left(states, cheap), gain)
        (actions, left, _), _ = lax.scan(ask, begin, None, length=gain.shape[1] - 1)
        # What must be spent is given away by gain as well: to those who lose least.
        dearest = self.agents.ladder[arm, states, -1]
        _, _, spare = lax.sort((-gain[arm, dearest], ties, arm), num_keys=2)
        return self.agents.filled(states, actions, spare, left), memory

    def after(
        self, key: Array, states: Array, actions: Array, memory: tuple[()], then: Array
    ) -> tuple[()]:
        """Nothing to remember."""
        del key, states, actions, then
        return memory


def arms_priority(arms: HeterogeneousArms, index: ArmsRelaxation | ArrayLike) -> ArmsPriority:
    r"""The priority of arms by what an action gains at the prices of the relaxation.

    With two actions and one budget it is the LP-priority (Lagrange) policy of restless bandits:
    those of the largest $Q_i(s, 1) - Q_i(s, 0)$ act, and with an index of your own what
    `simulate_agents` does. Actions that lose are taken only where a budget must be spent exactly.
    All of it is spent where there is one budget and the costs of a state are consecutive whole
    numbers; elsewhere `kept` of a run says so.

    Args:
        arms: their costs and budgets must be known.
        index: an `ArmsRelaxation`, or what each action is worth, `[N, S, A]`.

    Raises:
        ValueError: for bad arms or an index of another shape.
    """
    if not isinstance(arms, HeterogeneousArms):
        raise ValueError(f"arms: {type(arms).__name__} is no HeterogeneousArms")
    arms.check()
    worth = index.index if isinstance(index, ArmsRelaxation) else index
    check_shape("index", worth, np.shape(arms.reward))
    agents = agents_of_arms(arms)
    worth = jnp.asarray(worth, agents.costs.dtype)
    cheap = jnp.take_along_axis(worth, agents.ladder[..., :1], axis=2)
    return ArmsPriority(agents, worth - cheap)


def simulate_arms(
    key: Array,
    arms: HeterogeneousArms,
    policy: AgentsPolicy,
    *,
    num_steps: int,
    states: ArrayLike | None = None,
) -> ArmsTrajectory:
    r"""Simulate arms that all differ; 100,000 of them take seconds.

    Args:
        key: of `jax.random.key`.
        arms: values may be traced.
        policy: `arms_priority`, `id_policy`, `virtual_advice_policy`, or any `AgentsPolicy`.
        num_steps: T. Static.
        states: at epoch 0, `[N]`; 0 if not given.

    Returns:
        The trajectory. `kept` is false where the policy breaks a budget.

    Raises:
        ValueError: for bad arms, a policy that is none or of other arms, or states that are none.

    Examples:
        >>> import jax
        >>> import jaxent
        >>> import numpy as np
        >>> kernel = np.random.default_rng(0).dirichlet(np.ones(3), (50, 3, 2))
        >>> costs = np.stack([np.zeros((50, 3)), np.ones((50, 3))], axis=2)[..., None]
        >>> reward = kernel[..., 0]
        >>> arms = jaxent.HeterogeneousArms(kernel, reward, costs, [jaxent.Budget(10)])
        >>> policy = jaxent.arms_priority(arms, jaxent.arms_relaxation(arms))
        >>> run = jaxent.simulate_arms(jax.random.key(0), arms, policy, num_steps=4)
        >>> print(run.spent.shape, run.kept)
        (4, 1) True
    """
    if not isinstance(arms, HeterogeneousArms):
        raise ValueError(f"arms: {type(arms).__name__} is no HeterogeneousArms")
    arms.check()
    check_positive_int("num_steps", num_steps)
    if not isinstance(policy, AgentsPolicy):
        raise ValueError(
            f"policy: {type(policy).__name__} does not go agent by agent; take arms_priority, "
            "id_policy or virtual_advice_policy, or give it start, act and after"
        )
    where = jnp.zeros(arms.num_arms, jnp.int32) if states is None else jnp.asarray(states)
    check_shape("states", where, (arms.num_arms,))
    if concrete(where):
        bad = np.flatnonzero((np.asarray(where) < 0) | (np.asarray(where) >= arms.num_states))
        if len(bad):
            raise ValueError(
                f"states[{bad[0]}]: {np.asarray(where)[bad[0]]} is outside 0..{arms.num_states - 1}"
            )
    return _simulate(key, arms, policy, where.astype(jnp.int32), num_steps=num_steps)


@partial(jit, static_argnames="num_steps")
def _simulate(key, arms, policy, states, *, num_steps: int) -> ArmsTrajectory:
    arm = jnp.arange(arms.num_arms)
    process = AgentsProcess(policy, jnp.asarray(arms.kernel), arm, (), ())
    reward, costs = jnp.asarray(arms.reward), jnp.asarray(arms.costs)
    limits = jnp.stack([jnp.asarray(limit, costs.dtype) for limit in arms.limits])
    equality = np.array([budget.equality for budget in arms.budgets])
    size = jnp.abs(costs).max((1, 2)).sum(0)
    slack = float(jnp.finfo(costs.dtype).eps) ** 0.5 * jnp.maximum(jnp.abs(limits), size)

    def step(state, key: Array):
        chosen, moves = jax.random.split(key)
        states, actions, memory = process.choose(chosen, state)
        spent = costs[arm, states, actions].sum(0)
        kept = ~((spent > limits + slack) | (equality & (spent < limits - slack))).any()
        paid = reward[arm, states, actions].sum()
        return process.move(moves, (states, actions, memory)), (paid, spent, kept)

    begin = process.begin(jax.random.fold_in(key, num_steps), states)
    last, (paid, spent, kept) = lax.scan(step, begin, jax.random.split(key, num_steps))
    return ArmsTrajectory(paid, spent, last[0], kept.all())
