"""Every page of theory says the same things of its statements, and what it names is there."""

import re
from pathlib import Path

import pytest

import jaxent

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in (ROOT / "docs" / "theory").glob("*.md") if p.stem != "index")
KEYS = ("hypotheses", "checked by", "function", "test", "formal proof")
LINK = re.compile(r"\[([^\]]+)\]\((https://prove2\.me/theorems/[0-9a-f-]{36})\)")
NAME = re.compile(r"`((?:bounds\.)?[A-Za-z_]\w*)`")


def card(page):
    """The table at the head of a page, by key."""
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[1:5] == ["", "| in short | |", "|---|---|", lines[4]]
    rows = [re.fullmatch(r"\| ([\w ]+) \| (.+) \|", line) for line in lines[4:9]]
    assert all(rows), page.name
    assert lines[9] == ""
    found = {row[1]: row[2] for row in rows if row}
    assert tuple(found) == KEYS
    return found


def public(name):
    """Whether a name can be imported, as jaxent.NAME or jaxent.bounds.NAME."""
    value = jaxent
    for part in name.split("."):
        value = getattr(value, part, None)
    return value is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_it_rests_on(page):
    """Hypotheses and who checks them, functions that can be imported, a test, a formal proof."""
    text, found = page.read_text(), card(page)
    assert "> **Statement" in text
    functions = NAME.findall(found["function"])
    assert functions
    assert all(map(public, functions)), functions
    if found["hypotheses"] != "none":
        # Some are fields of what these functions return; a function is named for each page.
        assert any(map(public, NAME.findall(found["checked by"])))
    named = re.fullmatch(r"`(tests/\w+\.py)::(\w+)`", found["test"])
    assert named
    assert re.search(rf"^def {named[2]}\(", (ROOT / named[1]).read_text(), re.MULTILINE)
    links = LINK.findall(found["formal proof"])
    assert links or found["formal proof"] == "none"
    assert found["formal proof"].count("](https") == len(links)


def test_a_formal_statement_has_one_title_and_one_address():
    links = [link for page in PAGES for link in LINK.findall(card(page)["formal proof"])]
    titles, addresses = (len({link[k] for link in links}) for k in range(2))
    assert titles == addresses == len(set(links)) > 15


def test_every_property_file_named_exists():
    for page in PAGES:
        for path in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text()):
            assert (ROOT / path).exists(), path


def test_the_version_of_the_paper_is_named_everywhere():
    for path in ("docs/theory/index.md", "docs/errata.md", "docs/cite.md", "CITATION.cff"):
        text = (ROOT / path).read_text()
        assert "2506.02385" in text, path
        assert "2025" in text, path
    assert "doi: 10.48550/arXiv.2506.02385" in (ROOT / "CITATION.cff").read_text()


def test_every_erratum_has_its_test():
    rows = [r for r in (ROOT / "docs" / "errata.md").read_text().splitlines() if r[:2] == "| "]
    assert len(rows) > 10
    for row in rows[1:]:
        named = re.findall(r"`(tests/\w+\.py)?::(\w+)`", row.replace("\\|", ""))
        assert named, row[:60]
        path = ""
        for file, test in named:
            path = file or path
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text(), re.MULTILINE), test
