"""What the audit says of the error: the first line, the verdict, what to do next, one screen."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxent as je
from jaxent.auditing import report
from jaxent.auditing.agent_estimates import AgentEstimates
from jaxent.auditing.learned_sum import learned_sum
from jaxent.auditing.missing_signal import missing_signal
from jaxent.auditing.result import to_dict
from jaxent.auditing.team_error import Share, TeamError, error_of_sum
from jaxent.auditing.verdict import headline, more_steps, shown_number, team_verdict
from jaxent.data.td_error_fit import ErrorInterval
from jaxent.plotting import plot_audit

from . import logs_of_chains as games

KEY = jax.random.key(0)
ONE, OTHER = np.array([0.0, 1.0]), np.array([1.0, 0.0])


def coupled(weight, num_agents=2):
    """Agent 1's next pair is agent 0's present one with a chance; any others are paid nothing."""
    P = weight * np.asarray(je.appendix_e()) + (1 - weight) / 4
    for _ in range(num_agents - 2):
        P = np.kron(P, np.full((2, 2), 0.5))
    rewards = [ONE, OTHER] + [0 * ONE] * (num_agents - 2)
    return games.Game.of(P, games.each_own(num_agents, 2), rewards)


def log_of(game, num_steps, seed=0):
    return game.log(game.paths(seed, num_steps, 1)[:, 0])


def estimated(entangled):
    """Entanglement that is taken as known, for it does not enter the error."""

    def estimates(key, trajectory, *rest):
        one = np.ones(trajectory.num_agents)
        p = np.where(entangled, 0.005, 0.9) * one
        return AgentEstimates(0.2 * one, 0.1 * one, 0.3 * one, p, np.full((len(one), 20), 0.2))

    return estimates


@pytest.fixture
def told(monkeypatch):
    """The audit, without the seconds that entanglement takes."""

    def one(trajectory, *, entangled=True, influence=None, **options):
        number = trajectory.num_agents
        table = np.zeros((0, 0)) if influence is None else np.array(influence)
        monkeypatch.setattr(report, "from_logs", estimated(np.full(number, entangled)))
        monkeypatch.setattr(report, "influence_map", lambda *rest: table)
        return je.audit(trajectory, **{"discount": 0.9, **options})

    return one


def rules(found):
    return [step.rule for step in found.next_steps]


def inside(part, truth):
    return part.lower <= truth <= part.upper


def in_order(found):
    for error in found.errors:
        for part in (error.value, error.differences, error.limit, error.bias, error.placebo):
            assert part.lower <= part.value <= part.upper
            for share in (error.of_spread(part), error.of_scale(part)):
                assert share.lower <= share.value <= share.upper


def fits(found):
    lines = str(found).split("\n")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    return lines


def test_a_short_log_of_independent_agents_is_not_off_by_nothing(told):
    """At discount .99 a thousand steps leave the level open, and the first line says so."""
    game = games.separable()
    for seed in range(3):
        path = game.paths(seed, 1000, 1)[:, 0]
        found = told(game.log(path), entangled=False, discount=0.99)
        e = game.error(game.lift(game.learned(path, 0.99)), 0.99)
        assert inside(found.error.value, game.mu @ abs(e))
        assert inside(found.error.differences, game.mu @ abs(e - game.mu @ e))
        assert found.error.limit.lower == 0
        # Of the spread; of the mean size it would be a few percent, most of which is a constant.
        assert found.error.of_spread(found.error.value).value > 0.5
        assert found.error.of_spread(found.error.differences).upper > 0.02
        assert "0.0%" not in found.headline.split("(")[0]
        assert "level, a constant, may be off by up to" in found.sentence
        in_order(found)


def test_the_error_at_hand_holds_the_truth():
    """Of the sum as a log has taught it, constant and differences; of its limit in long logs."""
    held = []
    for game in (games.dense(), games.weakly_coupled(101), games.separable(304, 3)):
        limit = game.lift(game.limit(0.9))
        e = game.error(limit, 0.9)
        bound = game.mu @ abs(e - game.mu @ e)
        for path in game.paths(2, 3_200, 6).T:
            learned = learned_sum(game.log(path), 0.9)
            found = error_of_sum(KEY, game.log(path), learned, 0.9)
            e = game.error(game.lift(game.learned(path, 0.9)), 0.9)
            held.append(
                (
                    inside(found.value, game.mu @ abs(e)),
                    inside(found.differences, game.mu @ abs(e - game.mu @ e)),
                    inside(found.limit, bound) or bound < 1e-9,
                )
            )
            assert found.differences.upper >= found.limit.upper
    assert np.mean(held, 0).min() >= 0.85  # 95% wanted, 18 logs


@pytest.mark.slow
@pytest.mark.parametrize("discount", [0.9, 0.99])
@pytest.mark.parametrize(
    "kind", [games.dense, games.weakly_coupled, games.exogenous, games.separable]
)
def test_coverage_of_differences(kind, discount):
    """Of the sum as 100 logs of 3200 epochs have taught it, sampling included."""
    game, held = kind(), []
    for path in game.paths(7, 3_200, 100).T:
        log = game.log(path)
        found = error_of_sum(KEY, log, learned_sum(log, discount), discount)
        e = game.error(game.lift(game.learned(path, discount)), discount)
        held.append(inside(found.differences, game.mu @ abs(e - game.mu @ e)))
    print(f"{kind.__name__}, {discount}: {np.mean(held):.1%}")
    assert np.mean(held) >= 0.9


def test_a_constant_in_all_rewards_is_no_reason_to_trust(told):
    """A jammed grid: the mean is 7968 and all constant, the differences are wrong by most of their
    spread. Errors over the size of the sum tell nothing; the verdict does not go by them."""
    log = log_of(coupled(1.0), 2_000)
    plain = told(log)
    jammed = told(replace(log, rewards=np.asarray(log.rewards) * 10 + 3984))
    assert plain.verdict == jammed.verdict == "do not trust"
    assert plain.headline == jammed.headline
    assert jammed.error.of_scale(jammed.error.value).upper < 0.001
    assert jammed.error.of_spread(jammed.error.differences).lower > 0.5
    np.testing.assert_allclose(jammed.error.scale, 79_680, rtol=0.01)
    fits(jammed)


def test_a_large_bound_is_not_the_verdict(told):
    """Entangled agents whose error is small are trusted; the bound is below, as a worst case."""
    found = told(log_of(coupled(0.05), 20_000))
    assert found.bound > 0.5 * found.spread
    assert found.verdict == "trust"
    lines = fits(found)
    assert lines[0].startswith("The sum of local values misses the true value of the team by ")
    place = next(k for k, line in enumerate(lines) if line.startswith("the worst case that this"))
    assert "no verdict" in lines[place]
    assert place > next(k for k, line in enumerate(lines) if line.startswith("who is entangled"))
    assert f"{found.bound:.4g}" not in "\n".join(lines[:place])


def test_undecided_says_how_many_steps_would_decide(told):
    decided = []
    for seed, weight in ((1, 0.4), (2, 0.4), (1, 0.7), (2, 0.7)):
        game = coupled(weight)
        found = told(log_of(game, 250, seed))
        assert found.verdict == "undecided"
        assert rules(found)[0] == "more data"
        assert shown_number(found.more_steps) in found.next_steps[0].text
        assert f"about {shown_number(found.more_steps)} more steps would decide" in found.sentence
        longer = 250 + int(found.more_steps)
        decided.append(told(log_of(game, longer, seed)).verdict != "undecided")
    assert np.mean(decided) >= 0.5


def test_steps_that_would_decide_by_hand():
    """Ends come nearer as 1 / sqrt(T), with a quarter to spare."""
    # (1.25 * .4 / .2)^2 - 1 times the log; to 1 step, for it is rounded up.
    for share in (Share(0.3, 0.1, 0.7), Share(0.7, 0.3, 0.9)):
        np.testing.assert_allclose(more_steps(share, 0.5, 1000), 5250, atol=1)
    # The interval holds 0, so that the point may be noise.
    np.testing.assert_allclose(more_steps(Share(0.9, 0.0, 2.0), 0.5, 1000), 24_000, atol=1)
    # On the line, or so near that no length can be told.
    assert more_steps(Share(0.5, 0.4, 0.6), 0.5, 1000) == np.inf
    assert more_steps(Share(0.501, 0.4, 0.6), 0.5, 1000) == np.inf
    assert [shown_number(x) for x in (7, 99.2, 1234, 56_789)] == ["7", "100", "1,300", "57,000"]


def error_with(value, lower, upper, **options):
    """A spread of 1, and an error of the differences."""
    none = ErrorInterval(*map(np.float64, (0, 0, 0, 0)))
    part = ErrorInterval(*map(np.float64, (value, lower, upper, 0)))
    given = {"name": "sum of local values", "ceiling": np.inf, "scale": 10.0, "spread": 1.0}
    given |= {"by_pair": np.zeros((2, 2)), "num_features": 4, "by_pairs": True}
    given |= {"num_steps": 1000, "wanted": 0, "problem": ""} | options
    return TeamError(
        **{"value": part, "differences": part, "limit": part, "bias": none, "placebo": none} | given
    )


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        ((0.02, 0.0, 0.1), "trust"),
        ((0.02, 0.0, 0.11), "trust with care"),
        ((0.2, 0.1, 0.5), "trust with care"),
        ((0.2, 0.1, 0.51), "undecided"),
        ((0.6, 0.5, 0.8), "undecided"),
        ((0.6, 0.51, 0.8), "do not trust"),
        ((0.0, 0.0, 0.0), "trust"),
    ],
)
def test_verdicts(share, verdict):
    """By the interval of the error alone: words of agents do not matter while most have data."""
    for words in (("entangled",) * 2, ("no entanglement seen", "not enough data")):
        assert team_verdict(words, error_with(*share)).word == verdict
    lacking = team_verdict(("not enough data",) * 2, error_with(*share))
    assert lacking.word == "not enough data"
    assert "2 of 2 agents have too few transitions" in lacking.sentence
    critic = error_with(*share, name="critic")
    assert team_verdict(("not enough data",) * 2, critic).word == verdict


def test_verdicts_on_what_features_of_another_time_show():
    wrong = ErrorInterval(*map(np.float64, (0.3, 0.2, 0.4, 0.05)))
    found = team_verdict(("entangled",) * 2, error_with(0.02, 0.0, 0.1, placebo=wrong))
    assert found.word == "undecided"
    assert "drifts or has a rhythm" in found.sentence
    few = team_verdict(("entangled",) * 2, error_with(0.02, 0.0, 0.1, by_pairs=False))
    assert "as far as features of the team show" in few.sentence


def test_first_lines():
    assert headline(error_with(0.021, 0.016, 0.027)) == (
        "The sum of local values misses the true value of the team by 2.1% (1.6% to 2.7%) "
        "of its spread"
    )
    assert headline(error_with(2.5, 1.5, 12.0)).endswith("by 250% (150% to 1,200%) of its spread")
    flat = headline(error_with(0.021, 0.016, 0.027, spread=0.0, name="critic"))
    assert flat == (
        "The critic misses the true value of the team by 0.021 (0.016 to 0.027); it has no spread"
    )


@pytest.mark.parametrize(("num_steps", "wanted"), [(60, 200), (150, 200)])
def test_a_log_that_is_too_short_says_what_would_do(told, num_steps, wanted):
    found = told(log_of(coupled(0.5), num_steps), min_visits=5)
    assert found.verdict == "not enough data"
    assert f"cannot be told from {num_steps - 1} steps; about {wanted} would do" in (found.headline)
    assert (rules(found), found.error.wanted) == (["more data"], wanted)
    assert f"about {wanted} steps in all" in found.next_steps[0].text
    assert "%" not in found.headline
    lines = fits(found)
    assert not any("nan" in line for line in lines)
    content = json.loads(json.dumps(to_dict(found), allow_nan=False))
    assert content["errors"][0]["value"]["value"] is None
    plot_audit(found)
    told_by = told(log_of(coupled(0.5), wanted + 1), min_visits=5)
    assert told_by.error.is_told


def test_logs_of_short_pieces_and_of_many_states(told):
    """Few steps follow one another; or more states than can be counted: the reason, no error."""
    states = np.random.default_rng(0).integers(2, size=(60, 2))
    log = je.Trajectory.from_arrays(states, states, states)
    short = told(replace(log, episode=np.arange(60, dtype=np.int32)), min_visits=1)
    assert (short.verdict, short.error.wanted) == ("not enough data", 200)
    labels = je.Labels.numbers(agents=2, states=8, actions=1)
    many = np.random.default_rng(0).integers(8, size=(400, 2))
    log = je.Trajectory.from_arrays(many, 0 * many, many, labels=labels)
    found = told(log)
    assert found.error.wanted == 500
    assert "400 epochs are too few for 64 joint pairs or counts of 8 states" in str(found).replace(
        "\n", " "
    )
    labels = je.Labels.numbers(agents=2, states=600, actions=1)
    found = told(je.Trajectory.from_arrays(many, 0 * many, many, labels=labels))
    assert found.verdict == "not enough data"
    assert (found.error.wanted, found.more_steps) == (0, np.inf)
    assert "600 local states are too many to count; put them into bins" in found.sentence


def test_text_json_and_picture_say_the_same(told):
    log = log_of(games.dense(), 2_000)
    found = told(log, critic=np.zeros(2_000), influence=[[0.0, 0.2], [0.1, 0.0]])
    in_order(found)
    content = to_dict(found)
    assert content["headline"] == found.headline
    assert content["errors"][1]["name"] == "sum of local values"
    assert content["errors"][1]["limit"]["upper"] == found.sum_error.limit.upper
    assert [step["rule"] for step in content["next_steps"]] == rules(found)
    text = str(found)
    for part in (found.sum_error.value, found.sum_error.differences, found.sum_error.limit):
        share = found.sum_error.of_spread(part)
        assert f"{share.value:.1%} ({share.lower:.1%} to {share.upper:.1%})" in text
    errors, *_ = plot_audit(found).axes
    drawn = [label.get_text() for label in errors.get_yticklabels()]
    assert drawn == ["sum: value", "sum: differences", "sum: differences\nin the limit"]
    assert found.verdict in errors.get_title()


@pytest.mark.parametrize("num_agents", [2, 12, 40])
@pytest.mark.parametrize("with_critic", [False, True])
def test_one_screen(told, num_agents, with_critic):
    """A dozen agents have a line each, more are summarised; long names are cut."""
    rng = np.random.default_rng(0)
    states, actions = rng.integers(2, size=(2, 400, num_agents))
    paid = states + 1e6 * rng.normal(size=states.shape)
    labels = je.Labels(
        tuple(f"an agent with a name that is long, number {k}" for k in range(num_agents)),
        (0, 1),
        (0, 1),
    )
    log = je.Trajectory.from_arrays(states, actions, paid, labels=labels)
    notes = tuple(f"something to know, {k}, and more of it" * 5 for k in range(5))
    critic = {"critic": paid.sum(1)} if with_critic else {}
    found = told(log, notes=notes, **critic)
    lines = fits(found)
    shown = [line for line in lines if line.startswith("  an agent")]
    assert len(shown) == num_agents or f"  ... and {num_agents - len(shown)} more" in str(found)
    assert len(shown) >= min(num_agents, 3)
    assert "note: 2 more notes, in the JSON" in lines


def test_next_accept(told):
    found = told(log_of(coupled(0.05), 20_000))
    assert rules(found) == ["accept"]
    upper = found.error.of_spread(found.error.differences).upper
    assert f"the sum, for differences of more than {upper:.1%}" in found.next_steps[0].text
    nothing = told(replace(log_of(coupled(0.5), 1_000), rewards=np.zeros((1_000, 2))))
    assert [step.text for step in nothing.next_steps] == ["the sum"]


def test_next_more_data_for_trust_without_care(told):
    found = told(log_of(games.separable(), 1_000), entangled=False)
    assert found.verdict == "trust with care"
    assert rules(found) == ["accept", "more data"]
    assert "for trust without care" in found.next_steps[1].text


def test_next_more_data_for_agents(told):
    """Most agents lack visits: as many times the log as common pairs lack."""
    found = told(log_of(coupled(0.5), 1_000), min_visits=2_000)
    assert found.verdict == "not enough data"
    assert rules(found) == ["more data"]
    assert "until common pairs are seen 2000 times" in found.next_steps[0].text


def test_next_merge(told):
    """Of three agents the two are named of whom one moves the other, and what that leaves."""
    found = told(log_of(coupled(1.0, 3), 3_000))
    assert found.verdict == "do not trust"
    assert rules(found) == ["merge"]
    text = found.next_steps[0].text
    assert text.startswith("0 and 1: that leaves about ")
    left, before = (float(x.strip("%")) for x in text.split("about ")[1].split(" of "))
    assert left < 10 < 50 < before
    assert rules(told(log_of(coupled(1.0), 1_000))) == ["merge"]


def test_next_merge_by_the_map(told):
    """With more agents only the pair of the largest effect is tried."""
    rng = np.random.default_rng(0)
    influence = np.zeros((5, 5))
    influence[1, 0], influence[3, 2] = 0.4, 0.01
    found = told(log_of(coupled(1.0, 5), 2_000, seed=int(rng.integers(9))), influence=influence)
    assert found.verdict == "do not trust"
    assert rules(found) == ["merge"]
    assert found.next_steps[0].text.startswith("0 and 1: that leaves about ")
    log = log_of(coupled(1.0, 5), 2_000)
    shared = replace(log, rewards=np.asarray(log.rewards).sum(1))
    assert told(shared, influence=influence).next_steps[-1].text.startswith("0 and 1, of whom one")
    many = told(log)
    assert many.next_steps[0].text.startswith("0, the most entangled, and who moves it")


def test_next_learn_a_critic(told):
    """Nobody is seen to be moved, and yet the sum is off: there is nothing to merge."""
    found = told(log_of(coupled(1.0), 1_000), entangled=False)
    assert found.verdict == "do not trust"
    assert rules(found) == ["learn a critic"]


def seasons(num_steps):
    """Two agents that a hidden season drives; with it, and without."""
    good, bad = np.array([[0.4, 0.6], [0.1, 0.9]]), np.array([[0.9, 0.1], [0.6, 0.4]])
    rng = np.random.default_rng(0)
    states, season = np.zeros((num_steps, 2), int), np.zeros(num_steps, int)
    for t in range(1, num_steps):
        season[t] = season[t - 1] ^ (rng.random() < 0.02)
        law = (good, bad)[season[t - 1]]
        states[t] = rng.random(2) < law[states[t - 1], 1]
    arrays = states, np.zeros_like(states), states.astype(float)
    return je.Trajectory.from_arrays(*arrays), je.Trajectory.from_arrays(*arrays, signal=season)


def test_next_add_a_signal(told):
    """A hidden cause leaves a memory that the joint pair does not explain; the signal takes it."""
    blind, seen = seasons(4_000)
    found = told(blind)
    assert rules(found) == ["accept", "add a signal"]
    assert "a cause that the log does not show" in found.next_steps[1].text
    assert "add a signal" not in rules(told(seen))


def test_next_add_the_time(told):
    """States and rewards that go by the time of day: the length of the day is told."""
    rng = np.random.default_rng(0)
    day = 0.5 + 0.4 * np.sin(np.arange(4_000) * 2 * np.pi / 400)
    states = (rng.random((4_000, 2)) < day[:, None]).astype(int)
    paid = np.stack([day, day], 1) + 0.1 * rng.normal(size=(4_000, 2))
    found = told(je.Trajectory.from_arrays(states, np.zeros_like(states), paid))
    assert found.verdict == "undecided"
    assert rules(found)[0] == "add a signal"
    assert "a rhythm of about 400 steps" in found.next_steps[0].text
    assert "features of another time show" in str(found)
    assert "more data" not in rules(found)


def test_a_chain_of_joint_pairs_needs_no_signal():
    """False alarms: chains whose next pair depends on the present one alone, entangled or not."""
    for seed, game in enumerate((games.dense(), games.weakly_coupled(101), coupled(0.7)) * 4):
        assert missing_signal(log_of(game, 2_000, seed), drifts=False) == ""


def test_a_shared_reward_has_a_line_of_its_own(told):
    """An exclusive or is no sum of local rewards: the split leaves most, and so does the sum."""
    rng = np.random.default_rng(0)
    states = np.zeros((2_000, 2), int)
    for t in range(1, 2_000):
        states[t] = states[t - 1] ^ (rng.random(2) < 0.2)
    actions = np.zeros_like(states)
    mixed = je.Trajectory.from_arrays(states, actions, (states[:, 0] ^ states[:, 1]).astype(float))
    found = told(mixed, entangled=False)
    assert found.verdict == "do not trust"
    assert rules(found) == ["split otherwise"]
    assert f"leaves {found.reward_error:.1%} unexplained" in str(found)
    summed = told(je.Trajectory.from_arrays(states, actions, states.sum(1) * 1.0), entangled=False)
    assert summed.verdict in ("trust", "trust with care")
    assert summed.reward_error < 1e-5
    assert "split otherwise" not in rules(summed)
