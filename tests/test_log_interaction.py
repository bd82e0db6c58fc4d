"""The part of a reward that is no sum, by uniform play, from logs: against dense NumPy."""

from dataclasses import replace

import numpy as np
import pytest

import jaxent as je

from .tolerances import EXACT

STATES, ACTIONS = 3, 3


class Game:
    """Two agents that see one state of three; each plays by a law of its own, far from uniform."""

    def __init__(self, seed, noise=0.0):
        rng = np.random.default_rng(seed)
        self.kernel = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS, ACTIONS))
        own = rng.normal(size=(2, STATES, ACTIONS))
        both = rng.normal(size=(STATES, ACTIONS, ACTIONS))
        self.pay = own[0][:, :, None] + own[1][:, None] + 0.5 * both
        self.laws = rng.dirichlet(np.ones(ACTIONS), (2, STATES)) * 0.7 + 0.1
        self.noise = noise

    def log(self, seed, num_steps):
        rng = np.random.default_rng(seed)
        states, actions = np.empty(num_steps, int), np.empty((num_steps, 2), int)
        s = 0
        beyond, further = self.laws.cumsum(-1), self.kernel.cumsum(-1)
        for t, draw in enumerate(rng.random((num_steps, 3))):
            a = [min((draw[i] > beyond[i, s]).sum(), ACTIONS - 1) for i in range(2)]
            states[t], actions[t] = s, a
            s = min((draw[2] > further[s, a[0], a[1]]).sum(), STATES - 1)
        paid = self.pay[states, actions[:, 0], actions[:, 1]]
        paid = paid + self.noise * rng.normal(size=num_steps)
        labels = je.Labels.numbers(agents=2, states=STATES, actions=ACTIONS)
        log = je.Trajectory.from_arrays(np.stack([states] * 2, 1), actions, paid, labels=labels)
        return replace(log, action_laws=self.laws[:, states].swapaxes(0, 1))

    def share(self, law):
        """1 - R^2 by uniform actions, states by this law: least squares on indicators."""
        rows = [(s, a, b) for s in range(STATES) for a in range(ACTIONS) for b in range(ACTIONS)]
        design = np.zeros((len(rows), 2 * STATES * ACTIONS))
        for row, (s, a, b) in enumerate(rows):
            design[row, s * ACTIONS + a] = design[row, STATES * ACTIONS + s * ACTIONS + b] = 1
        w = np.repeat(law, ACTIONS**2) / ACTIONS**2
        r, root = self.pay.ravel(), np.sqrt(w)
        fit = np.linalg.lstsq(root[:, None] * design, root * r, rcond=None)[0]
        return w @ (r - design @ fit) ** 2 / (w @ (r - w @ r) ** 2)

    def truth(self):
        joint = np.einsum("sa,sb->sab", *self.laws)
        P = np.einsum("sab,sabt->st", joint, self.kernel)
        law = np.linalg.matrix_power(P, 200)[0]
        return self.share(law)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_interval_holds_the_truth(noise):
    """Of 40 logs, by recorded laws and by counts; 95% intervals, 5 standard errors of a share."""
    game = Game(1, noise)
    truth, missed = game.truth(), {"laws": 0, "joint counts": 0}
    for seed in range(40):
        log = game.log(seed, 1500)
        for each in (log, replace(log, action_laws=None)):
            found = je.reward_interaction_from_log(each)
            missed[found.source] += not found.lower <= truth <= found.upper
            assert found.lower <= found.in_sample <= found.share <= found.held_out <= found.upper
    limit = 40 * 0.05 + 5 * np.sqrt(40 * 0.05 * 0.95)
    assert max(missed.values()) <= limit, missed


def test_a_long_log_tells_it():
    """Within five standard errors; and unweighted it would be another number."""
    game = Game(2)
    log, truth = game.log(0, 20_000), game.truth()
    for each in (log, replace(log, action_laws=None)):
        found = je.reward_interaction_from_log(each)
        assert abs(found.share - truth) < 5 * found.standard_error + (
            found.held_out - found.in_sample
        )
        assert found.covered > 0.98
        np.testing.assert_allclose(found.repeated, 1, rtol=EXACT)
        assert 0 < found.num_effective < 20_000
    plain = je.reward_interaction_from_log(log, weights=np.ones(20_000))
    assert plain.source == "given"
    np.testing.assert_allclose(plain.num_effective, 20_000, rtol=EXACT)
    assert abs(plain.share - truth) > 5 * plain.standard_error


def test_weights_are_what_they_say():
    """The same as by weights worked out here, one over the chance of the joint action."""
    game = Game(3)
    log = game.log(0, 2000)
    states, actions = np.asarray(log.states)[:, 0], np.asarray(log.actions)
    chance = game.laws[0][states, actions[:, 0]] * game.laws[1][states, actions[:, 1]]
    a = je.reward_interaction_from_log(log)
    b = je.reward_interaction_from_log(log, weights=7 / chance)
    np.testing.assert_allclose(a[:6], b[:6], rtol=1e-9)
    np.testing.assert_allclose(a.num_effective, b.num_effective, rtol=1e-9)
    # Of weights that are no more than a ratio it is not known how much of the play is there.
    np.testing.assert_allclose(a.covered, min(1, (1 / chance).mean() / 9), rtol=1e-9)
    assert b.covered == 1
    left = _least_squares(log, 1 / chance)
    np.testing.assert_allclose(a.in_sample, left, rtol=1e-9)


def _least_squares(log, w):
    pairs = np.asarray(log.pairs)
    one = np.concatenate([np.eye(9)[pairs[:, i]] for i in range(2)], 1)
    r, root = np.asarray(log.rewards), np.sqrt(w)
    fit = np.linalg.lstsq(root[:, None] * one, root * r, rcond=None)[0]
    return w @ (r - one @ fit) ** 2 / (w @ (r - w @ r / w.sum()) ** 2)


def test_sums_have_none_and_products_have_all():
    """In any unit; agents that come and go are left out where they are not."""
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, (2000, 2))
    states = np.zeros((2000, 2), int)
    for unit in (1e-12, 1.0, 1e12):
        summed = unit * (3 * actions[:, 0] + actions[:, 1] + 5.0)
        found = je.reward_interaction_from_log(je.Trajectory.from_arrays(states, actions, summed))
        assert found.upper < 1e-12
        same = unit * (actions[:, 0] == actions[:, 1])
        found = je.reward_interaction_from_log(je.Trajectory.from_arrays(states, actions, same))
        assert found.share > 0.99
    each = np.stack([actions[:, 0], -2.0 * actions[:, 1]], 1)
    log = je.Trajectory.from_arrays(states, actions, each)
    present = np.ones((2000, 2), bool)
    present[:500, 1] = False
    found = je.reward_interaction_from_log(replace(log, present=present))
    assert found.share < 1e-9
    flat = je.Trajectory.from_arrays(states, actions, np.full(2000, 0.1))
    assert je.reward_interaction_from_log(flat).upper == 0


def test_many_agents_are_weighed_one_by_one():
    """Joint pairs hardly come twice, so chances are those of each agent by itself."""
    rng = np.random.default_rng(1)
    actions = (rng.random((3000, 8)) < 0.3).astype(int)
    paid = actions[:, 0] * actions[:, 1] + actions.sum(1)
    log = je.Trajectory.from_arrays(np.zeros_like(actions), actions, paid * 1.0)
    found = je.reward_interaction_from_log(log)
    assert found.source == "local counts"
    # By uniform play: the product has interaction 1/16 and adds 1/2 to two of the slopes.
    truth = (1 / 16) / (1 / 16 + (2 * 1.5**2 + 6) / 4)
    assert found.lower <= truth <= found.upper


def test_what_the_log_lacks_is_said():
    """Two of the four joint actions: on these a product is a sum, and the rest may be anything."""
    rng = np.random.default_rng(1)
    first = rng.integers(0, 2, 1000)
    actions = np.stack([first, first], 1)
    log = je.Trajectory.from_arrays(np.zeros_like(actions), actions, 1.0 * first)
    found = je.reward_interaction_from_log(log)
    np.testing.assert_allclose(found.covered, 0.5)
    assert found.upper == 0
    assert "of which the log has 50%" in " ".join(str(found).split())
    laws = np.broadcast_to([0.5, 0.5], (1000, 2, 2))
    np.testing.assert_allclose(
        je.reward_interaction_from_log(replace(log, action_laws=laws)).covered, 1
    )


def test_chance_is_no_interaction_where_it_can_be_told():
    """Noise on a sum: none left where joint pairs come again, and said where they do not."""
    rng = np.random.default_rng(2)
    actions = rng.integers(0, 2, (4000, 2))
    paid = actions.sum(1) + rng.normal(size=4000)
    found = je.reward_interaction_from_log(
        je.Trajectory.from_arrays(np.zeros_like(actions), actions, paid)
    )
    assert found.lower == 0
    assert found.upper < 0.02
    np.testing.assert_allclose(found.repeated, 1, rtol=EXACT)
    many = rng.integers(0, 2, (4000, 30))
    paid = many.sum(1) + rng.normal(size=4000)
    found = je.reward_interaction_from_log(
        je.Trajectory.from_arrays(np.zeros_like(many), many, paid)
    )
    assert found.repeated < 0.01
    assert found.share > 0.05


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_folds": 1}, "num_folds: 1"),
        ({"num_batches": 300}, "num_batches: 300"),
        ({"confidence": 1.0}, "confidence: 1.0"),
        ({"weights": np.ones(3)}, r"weights: wanted shape \[500\]"),
        ({"weights": -np.ones(500)}, "weights: must not be negative"),
        ({"weights": np.full(500, np.nan)}, r"weights\[0\] is nan"),
        ({"trajectory": 3}, "trajectory: int is not a Trajectory"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    arguments = {"trajectory": Game(0).log(0, 500), **change}
    with pytest.raises(ValueError, match=match):
        je.reward_interaction_from_log(arguments.pop("trajectory"), **arguments)


def test_laws_that_exclude_what_was_done():
    log = Game(0).log(0, 500)
    laws = np.array(log.action_laws)
    laws[7, 1, int(log.actions[7, 1])] = 0
    with pytest.raises(
        ValueError, match=r"action_laws\[7, 1, \d\] is 0, but that action was taken"
    ):
        je.reward_interaction_from_log(replace(log, action_laws=laws))
