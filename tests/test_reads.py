"""Results print on one screen, whatever they hold, and say what was found."""

import inspect
import string
import textwrap
from typing import NamedTuple

import html5lib
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent
from jaxent import PairChain
from jaxent._reads import NOT_SAID, reads
from jaxent.auditing.result import to_dict

RESULTS = {
    value
    for value in (
        *(getattr(jaxent, name) for name in jaxent.__all__),
        *(jaxent.bounds.APosteriori, jaxent.bounds.Report),
        *(jaxent.lemmas.DeviationBound, jaxent.lemmas.MultiStepBound),
    )
    if inspect.isclass(value)
    if hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")
}
OWN_WORDS = {"Audit", "ErrorBracket", "ErrorEstimate", "Merge", "Report"}


def appendix_e():
    chain = PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
    return chain, [np.array([0.0, 1.0]), np.array([1.0, 0.0])]


def fits(text):
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def valid(html):
    """A piece of a page, by a parser that stops at the first error."""
    html5lib.HTMLParser(strict=True).parse(f"<!DOCTYPE html><title>one</title>{html}")


@pytest.mark.parametrize("result", sorted(RESULTS, key=lambda cls: cls.__name__))
def test_every_public_result_has_a_sentence_of_fields_that_it_has(result):
    """A new result that is not made to read fails here, and one whose sentence has a slip."""
    assert result.__str__ not in (tuple.__str__, object.__str__)
    if result.__name__ in OWN_WORDS:
        return
    assert callable(result._repr_html_)
    for _, field, _, _ in string.Formatter().parse(result._sentence):
        if field is not None:
            name = field.split(".")[1].partition("[")[0]
            assert (
                name in getattr(result, "_fields", ())
                or hasattr(result, name)
                or (name in getattr(result, "__dataclass_fields__", ()))
            )


def test_a_decomposition_in_a_terminal():
    chain, rewards = appendix_e()
    found = jaxent.decompose(chain, rewards, discount=0.9)
    says = (
        "the sum of local values is off by 0.45 in the mean, 4.50% of the value, and 0.45 at most"
    )
    head, rest, *rows = str(found).splitlines()
    assert f"{head} {rest}" == f"Decomposition: {says}"
    assert rows == [
        "  q_joint     [10.45 9.45 10.55 9.55]",
        "  q_local[0]  [4.5 5.5]",
        "  q_local[1]  [5.5 4.5]",
        "  mu          [0.25 0.25 0.25 0.25]",
        "  visited     [True True True True]",
        "  error       [0.45 0.45 -0.45 -0.45]",
        *textwrap.wrap(NOT_SAID, 100),
    ]  # fmt: skip


def test_every_report_of_an_error_says_what_it_does_not_say():
    """One sentence, in print, in a notebook, in what the functions say of themselves."""
    chain, rewards = appendix_e()
    found = jaxent.decompose(chain, rewards, discount=0.9)
    log = jaxent.chain_trajectory(jax.random.key(0), chain, rewards, num_steps=500)
    tables = jaxent.lstd_local_q(log, discount=0.9)
    reports = [
        found,
        jaxent.fit_additive(chain, rewards, discount=0.9),
        jaxent.approximation_error(chain, rewards, found.q_local, discount=0.9),
        jaxent.estimate_approximation_error(jax.random.key(1), log, tables, discount=0.9),
    ]
    for report in reports:
        assert NOT_SAID in " ".join(str(report).split())
        assert NOT_SAID in report._repr_html_()
        fits(str(report))
    audited = jaxent.audit(log, discount=0.9, num_permutations=9)
    assert NOT_SAID in " ".join(str(audited).split())
    assert to_dict(audited)["not_said"] == NOT_SAID
    for function in (
        *(jaxent.decompose, jaxent.approximation_error, jaxent.fit_additive, jaxent.fit_monotone),
        *(jaxent.estimate_approximation_error, jaxent.audit),
    ):
        assert NOT_SAID in " ".join(function.__doc__.split())


def test_batches_and_traces_have_no_one_number():
    chain, rewards = appendix_e()
    seen = []

    def look(discount):
        found = jaxent.decompose(chain, rewards, discount=discount)
        seen.append(str(found))
        return found

    batch = jax.jit(jax.vmap(look))(jnp.array([0.5, 0.7, 0.9]))
    assert str(batch).startswith("Decomposition: a batch\n")
    assert f"{chain.dtype} [3, 4]" in str(batch)
    assert seen[0].startswith("Decomposition: traced\n")


class Odd(NamedTuple):
    value: object
    converged: object = True
    rest: object = None


@pytest.mark.parametrize(
    "value",
    [
        [np.zeros(3)] * 500,
        {f"agent {k}": np.arange(k) for k in range(60)},
        tuple(f"state {k}" for k in range(5000)),
        "long " * 100,
        np.array(["a", "b"] * 9),
        jax.random.key(0),
        np.full((3, 30), np.nan),
        np.zeros((0, 3)),
        Odd(1.0),
        lambda: None,
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_it_holds_it_fits_a_screen_and_a_page(value):
    odd = reads("found {0.value}")(type("Odd", (Odd,), {}))(value)
    fits(str(odd))
    valid(odd._repr_html_())


def test_results_with_words_of_their_own():
    """Brackets, estimates, audits, tables of bounds, merges: one screen, and a valid page."""
    chain, rewards = appendix_e()
    key, given = jax.random.key(0), {"discount": 0.9}
    log = jaxent.chain_trajectory(key, chain, rewards, num_steps=600)
    local = jaxent.local_q_values(chain, rewards, **given)
    tables = jaxent.lstd_local_q(log, **given)
    told = {
        "Audit": jaxent.audit(log, **given),
        "ErrorBracket": jaxent.approximation_error(chain, rewards, local, **given),
        "ErrorEstimate": jaxent.estimate_approximation_error(key, log, tables, **given),
        "Merge": jaxent.best_merge(chain, rewards, **given),
        "Report": jaxent.bounds.report(chain, rewards, **given),
    }
    assert set(told) == OWN_WORDS
    for result in told.values():
        fits(str(result))
        valid(result._repr_html_())


def test_not_converged_is_said_and_markup_is_text():
    odd = reads("found {0.value}")(type("Odd", (Odd,), {}))("<script>", False)
    assert str(odd).startswith("Odd: found <script>; not converged")
    assert "<script>" not in odd._repr_html_()


def test_functions_go_by_name():
    family = jaxent.joint_softmax(jaxent.example_1()[0])
    assert "0x" not in repr(family) + str(family)
    assert "joint_softmax.apply" in repr(family)


def test_tables_are_frames():
    """As many rows as there is to tell of, with the numbers of the result."""
    chain, rewards = appendix_e()
    found = jaxent.decompose(chain, rewards, discount=0.9)
    table = found.to_frame()
    assert len(table) == 4
    np.testing.assert_allclose(table.q_joint - table.q_sum, found.error)
    bracket = jaxent.approximation_error(chain, rewards, found.q_local, discount=0.9)
    assert list(bracket.to_frame().columns) == ["pair", "error"]
    fits(str(bracket))
    fits(str(jaxent.whittle_index(jaxent.circulant_bandit(10))))
    fits(str(chain))
