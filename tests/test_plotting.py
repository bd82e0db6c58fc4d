"""Pictures: what is drawn is what was found, where one asked for it; nothing else is touched."""

from itertools import combinations

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import jaxent
from jaxent import plotting
from jaxent.plotting.looks import DARK_GROUND, LIGHT_GROUND


def new_axes():
    return Figure().add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def two_agents():
    """Agent B's next pair is agent A's current one."""
    chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
    return chain, [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]


def light(color):
    """Relative luminance (WCAG 2)."""
    value = np.array(to_rgb(color))
    value = np.where(value <= 0.03928, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return value @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("ground", [LIGHT_GROUND, DARK_GROUND])
@pytest.mark.parametrize("name", ["BLUE", "RED", "GRAY", "GREEN"])
def test_colors_are_seen_on_both_grounds(name, ground):
    """A contrast of 3, which WCAG 2 asks of graphics."""
    low, high = sorted((light(getattr(plotting, name)), light(ground)))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_style_ends_with_its_block():
    before = dict(mpl.rcParams)
    with plotting.style(dark=True):
        assert mpl.rcParams["figure.facecolor"] == DARK_GROUND
    assert dict(mpl.rcParams) == before


def test_a_map_draws_into_the_axes_it_is_given():
    ax = new_axes()
    assert plotting.plot_entanglement_map([[9.0, 0.25], [0.5, 9.0]], agents="ab", ax=ax) is ax
    assert texts(ax) == ["0.25", "0.50"]  # by row, without the diagonal
    assert [x.get_text() for x in ax.get_xticklabels()] == ["a", "b"]
    assert not plt.get_fignums()


def test_error_of_two_agents_is_a_map_of_their_pairs():
    chain, rewards = two_agents()
    found = jaxent.decompose(chain, rewards, discount=0.9)
    ax = plotting.plot_error_by_pair(found, sizes=chain.sizes, agents=["A", "B"], ax=new_axes())
    np.testing.assert_array_equal(ax.images[0].get_array(), np.reshape(found.error, (2, 2)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("pair of agent B", "pair of agent A")
    assert ax.images[0].get_clim() == (-ax.images[0].get_clim()[1], np.abs(found.error).max())


def test_pairs_never_visited_are_blank():
    chain, rewards = two_agents()
    found = jaxent.decompose(chain, rewards, discount=0.9)
    found = found._replace(visited=found.visited.at[1].set(False))
    ax = plotting.plot_error_by_pair(found, sizes=chain.sizes, ax=new_axes())
    assert ax.images[0].get_array().mask.ravel().tolist() == [False, True, False, False]
    assert len(texts(ax)) == 3


def test_error_of_three_agents_is_its_largest_pairs():
    P, sizes = jaxent.three_agents(), (2, 2, 2)
    chain = jaxent.PairChain.from_matrix(P, sizes=sizes)
    found = jaxent.decompose(chain, [jnp.arange(2.0)] * 3, discount=0.9)
    error = np.linspace(-3, 4, 8)
    found = found._replace(error=error)
    ax = plotting.plot_error_by_pair(found, sizes=sizes, ax=new_axes())
    drawn = [bar.get_width() for bar in ax.patches]
    order = np.argsort(-np.abs(error), kind="stable")
    np.testing.assert_array_equal(drawn, [e for e in error[order] if e != 0])
    named = [tuple(map(int, x.get_text().split(", "))) for x in ax.get_yticklabels()]
    np.testing.assert_array_equal(np.ravel_multi_index(np.transpose(named), sizes), order[:7])


def test_error_in_a_log_is_a_map_of_local_pairs():
    chain, rewards = two_agents()
    key = jax.random.key(0)
    log = jaxent.chain_trajectory(key, chain, rewards, num_steps=1000)
    tables = jaxent.lstd_local_q(log, discount=0.9)
    found = jaxent.estimate_approximation_error(key, log, tables, discount=0.9)
    ax = plotting.plot_error_by_pair(found, ax=new_axes())
    np.testing.assert_array_equal(ax.images[0].get_array(), found.by_pair)


def test_sizes_must_fit():
    chain, rewards = two_agents()
    found = jaxent.decompose(chain, rewards, discount=0.9)
    with pytest.raises(ValueError, match=r"sizes: \(2, 3\) do not multiply .* give chain.sizes"):
        plotting.plot_error_by_pair(found, sizes=(2, 3))
    with pytest.raises(ValueError, match="agents: wanted 2 labels, got 1"):
        plotting.plot_error_by_pair(found, sizes=(2, 2), agents=["A"])
    with pytest.raises(ValueError, match="table: wanted a square matrix"):
        plotting.plot_entanglement_map(np.zeros((2, 3)))


def test_bounds_stand_beside_the_true_error():
    chain, rewards = two_agents()
    found = jaxent.bounds.report(chain, rewards, discount=0.9)
    for norm, bounds, error in (
        ("mu", found.mu_bounds, found.mu_error),
        ("sup", found.sup_bounds, found.sup_error),
    ):
        ax = plotting.plot_bounds(found, norm=norm, ax=new_axes())
        values, truth, _ = ax.lines
        np.testing.assert_allclose(values.get_xdata(), sorted(bounds.values()))
        assert truth.get_xdata()[0] == error
        assert ax.get_yticklabels()[0].get_text() == "true error"
    with pytest.raises(ValueError, match="norm: 'l2' is neither 'mu' nor 'sup'"):
        plotting.plot_bounds(found, norm="l2")


def test_a_bracket_closes_from_left_to_right():
    chain, rewards = two_agents()
    local = jaxent.local_q_values(chain, rewards, discount=0.9)
    one = jaxent.approximation_error(chain, rewards, local, discount=0.9)
    few = one._replace(num_matvecs=2, lower=0.2, value=0.3, upper=0.9)
    many = one._replace(num_matvecs=7)
    ax = plotting.plot_brackets([many, few], ax=new_axes())
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), [2, 7])
    np.testing.assert_allclose(line.get_ydata(), [0.3, one.value])
    with pytest.raises(ValueError, match="at least one bracket"):
        plotting.plot_brackets([])


def test_a_front_is_what_no_point_beats():
    """Against all pairs of points, ties among them."""
    x = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 0.5])
    y = np.array([2.0, 3.0, 3.0, 5.0, 1.0, 5.0, 0.0])
    beaten = [
        any(a <= x[k] and b >= y[k] and (a < x[k] or b > y[k]) for a, b in zip(x, y))
        for k in range(len(x))
    ]
    ax = plotting.plot_front(x, y, labels=list("abcdefg"), ax=new_axes())
    behind, front = ax.lines
    assert set(zip(*front.get_data())) == {(x[k], y[k]) for k in range(7) if not beaten[k]}
    assert set(zip(*behind.get_data())) == {(x[k], y[k]) for k in range(7) if beaten[k]}
    assert sorted(texts(ax)) == [c for c, out in zip("abcdefg", beaten) if not out]
    with pytest.raises(ValueError, match=r"gain: .*\[7\]"):
        plotting.plot_front(x, y[:3])
    with pytest.raises(ValueError, match=r"cost.* nan"):
        plotting.plot_front([np.nan], [1.0])


def test_a_curve_over_agents_has_all_that_is_known():
    sizes = (10, 20)
    exact = {
        n: jaxent.ground_truth(jaxent.circulant_bandit(n), jaxent.CIRCULANT_PRIORITY) for n in sizes
    }
    limit = jaxent.mean_field(jaxent.circulant_bandit(20), jaxent.CIRCULANT_PRIORITY)
    for quantity, field, constant, power in (
        ("entanglement", "entanglement", limit.entanglement_limit, -0.5),
        ("error", "mu_error", limit.mu_error_limit, 0.5),
        ("relative error", "relative_error", limit.relative_error_limit, -0.5),
    ):
        ax = plotting.plot_over_agents(
            quantity, exact=exact, simulated={40: (1.0, 0.1)}, limit=limit, ax=new_axes()
        )
        line, squares, points = ax.lines[0], ax.lines[1], ax.lines[2]
        np.testing.assert_allclose(line.get_ydata(), constant * np.array([10, 40]) ** power)
        np.testing.assert_allclose(squares.get_ydata(), [getattr(exact[n], field) for n in sizes])
        assert points.get_data() == ([40], [1.0])
        (bar,) = ax.collections[-1].get_segments()
        np.testing.assert_allclose(bar[:, 1], [0.8, 1.2])
    with pytest.raises(ValueError, match="quantity: 'speed' is none of entanglement, error"):
        plotting.plot_over_agents("speed", exact=exact)
    with pytest.raises(ValueError, match="at least one N"):
        plotting.plot_over_agents("error")


def test_indices_in_the_same_order_are_counted():
    ax = plotting.plot_indices([0.1, 0.3, 0.2], [1.0, 2.0, 3.0], states=["x", "$y", "z"])
    assert ax.get_title() == "2 of 3 pairs of states in the same order"
    assert texts(ax) == ["x", "$y", "z"]
    plt.close(ax.figure)
    bandit = jaxent.named_bandit("circulant", 10).bandit
    whittle = jaxent.whittle_index(bandit)
    ax = plotting.plot_indices(2 * whittle.index, whittle, ax=new_axes())
    apart = len(np.triu_indices(4, 1)[0]) - sum(a == b for a, b in combinations(whittle.index, 2))
    assert ax.get_title() == f"{apart} of {apart} pairs of states in the same order"
    with pytest.raises(ValueError, match=r"learned: .*\[4\]"):
        plotting.plot_indices([1.0], whittle)
    with pytest.raises(ValueError, match=r"exact.* nan"):
        plotting.plot_indices([1.0], [np.nan])


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: plotting.plot_audit(3), "found: int is not of Audit; audit gives it"),
        (lambda: plotting.plot_audit_errors("log.csv"), "found: str is not of Audit; audit gives"),
        (lambda: plotting.plot_audit_agents(None), "found: NoneType is not of Audit"),
        (
            lambda: plotting.plot_bounds({}),
            r"found: dict is not of Report; bounds\.report gives it",
        ),
        (lambda: plotting.plot_brackets([3]), r"found\[0\]: int is not of ErrorBracket"),
        (lambda: plotting.plot_error_by_pair(3), "found: int has no error by pair; decompose,"),
        (
            lambda: plotting.plot_over_agents("error", exact={5: 3}),
            r"exact\[5\]: int is not of Gro",
        ),
        (
            lambda: plotting.plot_over_agents("error", simulated={5: (1, 1)}, limit=3),
            "limit: int is not of MeanField; mean_field gives it",
        ),
    ],
)
def test_other_objects_are_shown_the_door(draw, match):
    with pytest.raises(ValueError, match=match):
        draw()
    assert not plt.get_fignums()
