r"""IGM, individual-global-max: whether best actions for each agent are a best joint action.

Agents that are greedy by their local values take u_i = argmax Q_i(o_i, .), and a mixture that is
monotone in each Q_i is largest there, as the sum is. A state in which another joint action is worth
more is a witness that these values fail for control, however well they fit.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import concrete
from .._reads import reads
from ..chains.pair_chain import PairChain, check_chain
from ..chains.views import view_code
from ..models.contracts import ArrayLike
from ..models.parts import TablePolicy
from ..numerics.compiled import jit
from .bellman import Rewards, check_locals, joint_function
from .decomposition import Decomposition
from .value_factorization import ValueFit

Array = jax.Array
LocalValues = Sequence[ArrayLike] | ValueFit | Decomposition

# Differences of values that are rounding, in machine epsilons of their spread.
_ROUNDING = 2**12


@reads("{0.loss:.4g} is lost in state {0.state} by acting greedily")
class IGMWitness(NamedTuple):
    r"""Whether greedy local actions make a best joint action in every state, and where not.

    Attributes:
        holds: whether `loss` is no more than rounding.
        state: s, where the most is lost.
        greedy: the joint action in s of agents that are greedy by their local values.
        best: a best joint action in s.
        loss: $\max_a Q(s, a) - Q(s, u)$ there, u being greedy.
        losses: the same in every state, `[S]`.
    """

    holds: bool
    state: int
    greedy: tuple[int, ...]
    best: tuple[int, ...]
    loss: float
    losses: Array

    def __str__(self) -> str:
        """The witness, on a line."""
        if self.holds:
            return "IGM holds in every state"
        return (
            f"IGM fails: in state {self.state} greedy agents play {self.greedy}, "
            f"best is {self.best}, which loses {self.loss:.6g}"
        )


def igm_witness(chain: PairChain, values: LocalValues, q_joint: Rewards) -> IGMWitness:
    r"""Whether the joint action of agents that are greedy alone is a best one, state by state.

    With u_i = argmax Q_i(o_i, .), the loss in s is max_a Q(s, a) - Q(s, u). Of equal local values
    the first counts.

    Args:
        chain: of a joint policy table, for its views; which policy does not matter.
        values: Q_i of each agent, `[X_i]` or `[O_i, A_i]`; or a result that has `q_local`.
        q_joint: Q, `[J]`: of the policy that plays (`q_values`), or the best ones.

    Raises:
        ValueError: for wrong shapes, and inside a trace.

    Examples:
        The climbing game of two actions: together 1 pays most, but alone it looks bad:

        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> pay = jnp.array([[[5.0, 0.0], [0.0, 6.0]]])  # [S, A_0, A_1]
        >>> stay = (jnp.zeros((1, 2, 2, 1), int), jnp.ones((1, 2, 2, 1)))
        >>> game = jaxent.StateMDP(stay, ((0,), (0,)), pay, discount=0.9)
        >>> chain = jaxent.pair_chain(game, jnp.array([[[0.36, 0.24], [0.24, 0.16]]]))
        >>> fit = jaxent.fit_additive(chain, pay, discount=0.9)
        >>> print(jaxent.igm_witness(chain, fit, fit.q_joint))
        IGM fails: in state 0 greedy agents play (0, 0), best is (1, 1), which loses 1
    """
    check_chain(chain)
    if not concrete(chain):
        raise ValueError("igm_witness: names a state, so it is for known values, not traced ones")
    form = JointForm.of(chain)
    local = check_locals(chain, local_values(values), "values")
    total = form.by_state(chain.lift(local))
    q = form.by_state(joint_function(chain, "q_joint", q_joint))
    return witness(q, total.argmax(-1), form.actions)


def witness(q: Array, greedy: Array, actions: tuple[int, ...]) -> IGMWitness:
    """What greedy joint actions `[S]` lose by the values `[S, A]`."""
    losses, found = _losses(q, greedy)
    s, best = int(found.state), int(found.best)
    return IGMWitness(
        holds=bool(found.holds),
        state=s,
        greedy=_named(int(np.asarray(greedy)[s]), actions),
        best=_named(best, actions),
        loss=float(found.loss),
        losses=losses,
    )


class _Worst(NamedTuple):
    """The state where most is lost, what is best there, the loss, and whether it is none."""

    state: Array
    best: Array
    loss: Array
    holds: Array


@jit
def _losses(q: Array, greedy: Array) -> tuple[Array, _Worst]:
    losses = q.max(-1) - jnp.take_along_axis(q, greedy[:, None], 1)[:, 0]
    s = losses.argmax()
    return losses, _Worst(s, q[s].argmax(), losses[s], losses[s] <= rounding(q))


def local_values(values: LocalValues) -> Sequence[ArrayLike]:
    """Local values, or those of a result."""
    return values.q_local if isinstance(values, (ValueFit, Decomposition)) else values


def rounding(q: Array | np.ndarray) -> Any:
    """Differences of these values that mean nothing."""
    return _ROUNDING * float(jnp.finfo(q.dtype).eps) * (q.max() - q.min())


def _named(action: int, actions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(a) for a in np.unravel_index(action, actions))


class JointForm(NamedTuple):
    """How a function of joint pairs is one of joint states and joint actions, and back.

    Attributes:
        shape: of a table in the order of pairs, `[S_0, A_0, S_1, A_1, ..]`.
        actions: A_i of each agent.
    """

    shape: tuple[int, ...]
    actions: tuple[int, ...]

    @classmethod
    def of(cls, chain: PairChain) -> "JointForm":
        """That of a chain's pairs."""
        if not isinstance(chain.policy, TablePolicy):
            raise ValueError(
                "chain: has no joint policy table, so joint states and actions cannot be told "
                "apart; make it with pair_chain(mdp, policy) and a policy [S_0.., A_0..]"
            )
        shape, sizes = chain.policy.table.shape, chain.sizes
        named = len(shape) == 2 and sizes[0] == shape[0] and prod(sizes[1:]) == shape[1]
        return cls(shape, sizes[1:] if named else shape[1::2])

    def by_state(self, f: Array) -> Array:
        """`[J]` to `[S, A]`."""
        states = prod(self.shape[::2])
        return f.reshape(self.shape).transpose(self._order()).reshape(states, -1)

    def by_pair(self, f: Array) -> Array:
        """`[S, A]` to a table in the order of pairs."""
        order = self._order()
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return f.reshape([self.shape[k] for k in order]).transpose(inverse)

    def seen(self, chain: PairChain) -> tuple[np.ndarray, ...]:
        """What each agent sees in each joint state, int `[S]`, where its view is that and its
        action; else a ValueError."""
        if len(chain.views) != len(self.actions):
            raise ValueError(f"chain: has {len(chain.views)} views of {len(self.actions)} agents")
        places = np.unravel_index(np.arange(prod(self.actions)), self.actions)
        found = []
        for i, size in enumerate(self.actions):
            code = np.asarray(self.by_state(jnp.asarray(view_code(chain.view(i)))))
            seen = code[:, 0] // size
            if not np.array_equal(code, seen[:, None] * size + places[i]):
                raise ValueError(f"chain: view {i} is not what agent {i} observes and its action")
            found.append(seen)
        return tuple(found)

    def _order(self) -> tuple[int, ...]:
        axes = len(self.shape)
        return (*range(0, axes, 2), *range(1, axes, 2))
