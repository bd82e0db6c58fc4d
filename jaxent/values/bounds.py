r"""Bounds on the decomposition error, the paper's and tighter ones.

The paper's have the form 4 discount sum_i E_i r_max_i / (1 - discount)^2; where agents share one
reward, e(r) / (1 - discount) of Eq. (14) is added for what is no sum of local rewards (Prop. 4).
Views that share a signal have the same bounds (Thm 9). Four refinements follow from its own
proofs:

- a transition difference kills constants, so the *span* of a local value (max - min) stands where
  r_max / (1 - discount) did: 2 discount / (1 - discount) sum_i E_i span(v_i), with
  v_i = (I - discount P_i)^{-1} r_i at the minimizer P_i;
- the proof holds for the transition P_i^pi of Eq. (2) in the place of the minimizer, and without
  the step between the two, so nothing is minimized: discount / (1 - discount) sum_i d_i span(Q_i),
  with d_i the distance of the chain from P_i^pi, at most twice the entanglement;
- sqrt(I_i / 2), I_i the transfer entropy in nats, in the place of d_i bounds the root mean square
  error too (`information_l2`);
- once local values are known the error needs no entanglement at all: it is the value of a residual
  (`a_posteriori`).

Where agents that are alike are counted, a view stands for all of them and its term is taken so
often (`PairChain.num_alike`). Every entanglement enters by its certified upper end, so the bounds
hold whether or not a minimization converged. Sup-norm bounds are over visited pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._checks import check_discount
from .._reads import Frame, frame
from ..chains.pair_chain import PairChain
from ..chains.stationary import known_law, solve_law, stationary_distribution
from ..chains.views import product_form, rows_by_view
from ..measures.entanglement import entanglement_atv, entanglement_mu_atv, entanglement_tv
from ..measures.row_measures import (
    MAX_STEPS,
    TOL,
    Entanglement,
    minimax_entanglement,
    of_view,
    same_shape,
    sign_entanglement,
)
from ..models.contracts import ArrayLike, Scalar
from ..models.layouts import FactorLayout
from ..numerics.elimination import discounted_solve
from .a_posteriori import APosteriori as APosteriori
from .a_posteriori import a_posteriori as a_posteriori
from .a_posteriori import information_l2 as information_l2
from .a_posteriori import projection_mu as projection_mu
from .a_posteriori import projection_shared as projection_shared
from .a_posteriori import projection_sup as projection_sup
from .approximation_error import approximation_error
from .bellman import check_locals, shared_reward
from .decomposition import decompose, reward_entanglement, reward_ranges

Array = jax.Array
Rewards = Sequence[ArrayLike]
Measured = Sequence[Entanglement] | None


def theorem_3(
    chain: PairChain, rewards: Rewards, *, discount: Scalar, mu: ArrayLike | None = None
) -> Array:
    """Sup-norm bound from the TV entanglement of two agents (Thm 3).

    Here and below `mu` is the stationary law, `[J]`, where it is known already.
    """
    largest = _largest(chain, rewards, discount)
    upper = entanglement_tv(chain, mu=mu).upper
    return _paper([upper] * len(chain.views), largest, discount)


def theorem_4(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """Sup-norm bound from agent-wise entanglement of two agents (Thm 4).

    `measured` is `entanglement_atv` of every view, where it is known already.
    """
    largest = _largest(chain, rewards, discount)
    uppers = [e.upper for e in measured or _agentwise(chain, mu)]
    return _paper(uppers, largest, discount)


def theorem_5(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """mu-norm bound from mu-weighted agent-wise entanglement of two agents (Thm 5).

    `measured` is `entanglement_mu_atv` of every view, where it is known already.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxent
        >>> chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
        >>> rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
        >>> print(f"{jaxent.bounds.theorem_5(chain, rewards, discount=0.9):.1f}")
        180.0
    """
    largest = _largest(chain, rewards, discount)
    uppers = [e.upper for e in measured or _mu_agentwise(chain, mu)]
    return _paper(uppers, largest, discount)


def theorem_6(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """The bound of Theorem 5 for N agents (Thm 6); see `theorem_5`."""
    return theorem_5(chain, rewards, discount=discount, measured=measured, mu=mu)


def theorem_8(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """The bound of Theorem 4 for N agents (Thm 8); see `theorem_4`."""
    return theorem_4(chain, rewards, discount=discount, measured=measured, mu=mu)


def theorem_9(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """The bound of Theorem 8 for agents that share a signal (Thm 9); see `theorem_4`."""
    return theorem_4(chain, rewards, discount=discount, measured=measured, mu=mu)


def proposition_4(
    chain: PairChain,
    reward: Array,
    *,
    discount: Scalar,
    fit: Entanglement | None = None,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    r"""mu-norm bound for agents that share a reward (Prop. 4, for any number of agents).

    e(r) / (1 - discount) + 4 discount sum_i E_i r_max_i / (1 - discount)^2, with mu-weighted
    agent-wise E_i, on |Q - sum_i Q_i| where the Q_i are those of the `reward_entanglement`'s local
    rewards r_i. These stay optimal, and sum_i Q_i stays what it is, if constants c_i that sum to 0
    are added: r_max_i = max |r_i + c_i| is for the c that make the bound least.

    Args:
        chain: any unichain.
        reward: the shared reward, `[J]` or `[X_0, ..]`.
        discount: in [0, 1).
        fit: the `reward_entanglement` of this reward, where it is known already.
        measured: `entanglement_mu_atv` of every view, likewise.
        mu: the stationary law, `[J]`, likewise.
    """
    check_discount(discount)
    reward = shared_reward(chain, reward)
    mu = known_law(chain, mu)
    fit = reward_entanglement(chain, reward, mu) if fit is None else fit
    middle, half = reward_ranges(chain, mu, fit.minimizer)
    uppers = jnp.stack([e.upper for e in measured or _mu_agentwise(chain, mu)])
    # |middle_i + c_i| is paid for at E_i: all of their sum goes where that is least.
    paid = uppers @ half + uppers.min() * jnp.abs(middle.sum())
    return fit.upper / (1 - discount) + 4 * discount * paid / (1 - discount) ** 2


def span_sup(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """Theorem 8 with spans of local values for r_max / (1 - discount); `measured` as there."""
    rewards = _flat(chain, rewards, discount)
    return _span_bound(chain, measured or _agentwise(chain, mu), rewards, discount)


def span_mu(
    chain: PairChain,
    rewards: Rewards,
    *,
    discount: Scalar,
    measured: Measured = None,
    mu: ArrayLike | None = None,
) -> Array:
    """Theorem 6 with spans of local values for r_max / (1 - discount); `measured` as there."""
    rewards = _flat(chain, rewards, discount)
    return _span_bound(chain, measured or _mu_agentwise(chain, mu), rewards, discount)


class Report(NamedTuple):
    """True errors with their brackets, and bounds by name; printing it shows a table."""

    sup_error: float
    mu_error: float
    sup_bounds: dict[str, float]
    mu_bounds: dict[str, float]
    checks: dict[str, str]
    sup_bracket: tuple[float, float]
    mu_bracket: tuple[float, float]

    def _rows(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """For each norm what, its value, and how many times the true error that is."""
        tables = []
        for norm, error, (lower, upper), bounds in (
            ("sup norm", self.sup_error, self.sup_bracket, self.sup_bounds),
            ("mu norm", self.mu_error, self.mu_bracket, self.mu_bounds),
        ):
            rows = [("true error", f"{error:.4g}", "")]
            rows += [("... at least", f"{lower:.4g}", ""), ("... at most", f"{upper:.4g}", "")]
            for name, bound in bounds.items():
                rows += [(name, f"{bound:.4g}", f"{bound / error:.3g} x" if error > 0 else "-")]
            tables.append((norm, rows))
        return tables

    def __str__(self) -> str:
        """The table."""
        lines = []
        for norm, rows in self._rows():
            lines += [f"{norm:<34}{'value':>12}{'over true':>12}"]
            lines += [f"  {name:<32}{value:>12}{slack:>12}" for name, value, slack in rows]
        return "\n".join(lines + [f"{name}: {what}" for name, what in self.checks.items()])

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        lines = []
        for norm, rows in self._rows():
            lines += [f"<tr><th>{norm}</th><th>value</th><th>over true</th></tr>"]
            lines += [
                "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
            ]
        notes = [f"{name}: {what}" for name, what in self.checks.items()]
        return f"<table>{''.join(lines)}</table><p>{'<br>'.join(notes)}</p>"

    def to_frame(self) -> Frame:
        """A row a bound."""
        norms = ("sup", self.sup_error, self.sup_bounds), ("mu", self.mu_error, self.mu_bounds)
        rows = [(n, name, bound, error) for n, error, all_ in norms for name, bound in all_.items()]
        columns = zip(*rows, strict=True)
        return frame(dict(zip(("norm", "name", "bound", "true_error"), columns, strict=True)))


def report(chain: PairChain, rewards: Rewards, *, discount: Scalar) -> Report:
    """True error, every bound that applies, and what was checked; `print` it.

    Raises:
        ValueError: for a chain with no unique stationary law, or wrong rewards or discount.
    """
    largest, rewards = _largest(chain, rewards, discount), _flat(chain, rewards, discount)
    mu = stationary_distribution(chain)
    exact = decompose(chain, rewards, discount=discount, mu=mu)
    atv, mu_atv = _measured(chain, mu)
    after = a_posteriori(chain, rewards, discount=discount, mu=mu)
    found = approximation_error(chain, rewards, exact.q_local, discount=discount, mu=mu)
    sup, mean = {}, {}
    gaps = [e.upper - e.lower for e in (*atv, *mu_atv)]
    two = sum(chain.num_alike) == 2
    if two and product_form(chain) is not None:
        joint = entanglement_tv(chain, mu=mu)
        gaps.append(joint.upper - joint.lower)
        sup["Theorem 3 (TV)"] = _paper([joint.upper] * 2, largest, discount)
    sup[f"Theorem {_agentwise_theorem(chain)} (ATV)"] = _paper(
        [e.upper for e in atv], largest, discount
    )
    sup["... with spans"] = _span_bound(chain, atv, rewards, discount)
    sup["... of Eq. (2) itself"] = projection_sup(chain, rewards, discount=discount, mu=mu)
    sup["a posteriori"] = after.sup_bound
    name = f"Theorem {5 if two else 6} (mu-ATV)"
    mean[name] = _paper([e.upper for e in mu_atv], largest, discount)
    mean["... with spans"] = _span_bound(chain, mu_atv, rewards, discount)
    mean["... of Eq. (2) itself"] = projection_mu(chain, rewards, discount=discount, mu=mu)
    mean["a posteriori"] = after.mu_bound
    number = int(np.sum(np.asarray(exact.visited)))
    checks = {
        "checked": "rows are probabilities; the stationary law is unique",
        "visited pairs": f"{number} of {chain.num_pairs}; sup norms are over these",
        "entanglement": f"certified to {float(jnp.stack(gaps).max()):.2g}",
        "Dobrushin coefficient": f"{float(after.dobrushin):.4g}",
        "... of the reversed chain": f"{float(after.reversed_dobrushin):.4g}",
        "rho": f"{float(after.rho):.4g}",
    }
    numbers = lambda table: {k: float(v) for k, v in table.items()}  # noqa: E731
    return Report(
        float(exact.sup_error),
        float(exact.mu_error),
        numbers(sup),
        numbers(mean),
        checks,
        (float(found.sup_lower), float(found.sup_upper)),
        (float(found.lower), float(found.upper)),
    )


def _agentwise_theorem(chain: PairChain) -> int:
    """Which theorem bounds by agent-wise entanglement: 9 for a signal that several agents see."""
    if isinstance(chain.layout, FactorLayout):
        seen = [axis for view in chain.views for axis in view]
        if len(set(seen)) < len(seen):
            return 9
    return 4 if sum(chain.num_alike) == 2 else 8


def _measured(chain: PairChain, mu: Array) -> tuple[list[Entanglement], list[Entanglement]]:
    """`entanglement_atv` and `entanglement_mu_atv` of every view, whose rows are found once."""
    mu, agents = mu.astype(chain.dtype), range(len(chain.views))
    views = same_shape([rows_by_view(chain, mu, agent=i) for i in agents])
    options = {"tol": TOL, "max_steps": MAX_STEPS}
    atv = [minimax_entanglement(points, mass > 0, **options) for points, mass in views]
    mu_atv = [sign_entanglement(points, mass, **options) for points, mass in views]
    cut = lambda found: list(map(of_view, found, chain.view_sizes))  # noqa: E731
    return cut(atv), cut(mu_atv)


def _agentwise(chain: PairChain, mu: ArrayLike | None) -> list[Entanglement]:
    mu = solve_law(chain).value if mu is None else mu
    return [entanglement_atv(chain, agent=i, mu=mu) for i in range(len(chain.views))]


def _mu_agentwise(chain: PairChain, mu: ArrayLike | None) -> list[Entanglement]:
    mu = known_law(chain, mu)
    return [entanglement_mu_atv(chain, mu, agent=i) for i in range(len(chain.views))]


def _flat(chain: PairChain, rewards: Rewards, discount: Scalar) -> list[Array]:
    """The local rewards, `[X_i]` each; what is wrong is refused before anything is solved."""
    check_discount(discount)
    return check_locals(chain, rewards)


def _largest(chain: PairChain, rewards: Rewards, discount: Scalar) -> list[Array]:
    """r_max of each view, times how many agents it stands for."""
    flat = _flat(chain, rewards, discount)
    return [n * jnp.abs(r).max() for n, r in zip(chain.num_alike, flat, strict=True)]


def _paper(entanglement: Sequence[Array], largest: Sequence[Array], discount: Scalar) -> Array:
    """4 discount sum_i E_i r_max_i / (1 - discount)^2."""
    total = jnp.stack([e * r for e, r in zip(entanglement, largest, strict=True)]).sum()
    return total * (4 * discount / (1 - discount) ** 2)


def _span_bound(
    chain: PairChain,
    entanglement: Sequence[Entanglement],
    rewards: Sequence[ArrayLike],
    discount: Scalar,
) -> Array:
    """2 discount / (1 - discount) sum_i E_i span((I - discount P_i)^{-1} r_i)."""
    total = []
    for n, e, r in zip(chain.num_alike, entanglement, rewards, strict=True):
        value = discounted_solve(lax.stop_gradient(e.minimizer), r, discount)
        total.append(n * e.upper * (value.max() - value.min()))
    return jnp.stack(total).sum() * (2 * discount / (1 - discount))
