"""The report of an audit as a page: by itself, in a browser, and from the command line."""

import re
import shutil
from datetime import UTC, datetime

import html5lib
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxent

pytest.importorskip("jinja2", reason="a report in HTML needs jinja2 (the audit extra)")
from jaxent.reporting.html_report import audit_html

SCRIPT = "<script>document.title='taken'</script>"
MADE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def log_of_two(labels=(SCRIPT, "b & co"), num_steps=1500):
    """Agent B's next pair is agent A's current one."""
    chain = jaxent.PairChain.from_matrix(jaxent.appendix_e(), sizes=(2, 2))
    rewards = [jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])]
    log = jaxent.chain_trajectory(jax.random.key(0), chain, rewards, num_steps=num_steps)
    frame = jaxent.to_frame(log)
    return frame.assign(agent=frame["agent"].map(dict(enumerate(labels))))


@pytest.fixture(scope="module")
def log():
    return log_of_two()


@pytest.fixture(scope="module")
def found(log):
    return jaxent.audit(log, discount=0.9)


@pytest.fixture(scope="module")
def page(found):
    return audit_html(found, source="a log & more", made=MADE)


def parsed(text):
    """The page, by a parser that stops at the first error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def rows(table):
    return [[text_of(cell) for cell in row] for row in table.find("tbody").iter("tr")]


def test_the_page_is_valid_and_says_what_was_found(found, page):
    tree = parsed(page)
    assert text_of(tree.find(".//h1")) == found.headline
    assert text_of(tree.find(".//header//span")) == found.verdict
    assert found.sentence in text_of(tree.find(".//header"))
    steps = [text_of(step) for step in tree.findall(".//ol/li")]
    assert steps == [f"{step.rule}: {step.text}" for step in found.next_steps]
    assert "2026-01-02 03:04 UTC" in text_of(tree)
    assert jaxent.__version__ in text_of(tree)
    agents, pairs = (t for t in tree.iter("table") if t.get("class") == "sorts")
    order = np.argsort(-found.entanglement)
    assert [row[0] for row in rows(agents)] == [found.agents[i] for i in order]
    assert [row[2] for row in rows(agents)] == [f"{found.entanglement[i]:.4f}" for i in order]
    wrong = found.error.by_pair
    assert {row[2] for row in rows(pairs)} == {f"{x:.4g}" for x in wrong[wrong > 0]}
    (moved,) = (t for t in tree.iter("table") if t.get("class") == "map")
    told = [[float(cell) for cell in row[1:]] for row in rows(moved)]
    np.testing.assert_allclose(told, found.influence, atol=5e-4)


def test_a_label_stays_text(page):
    tree = parsed(page)
    assert len(list(tree.iter("script"))) == 1  # the one that sorts
    assert "taken" not in text_of(tree.find(".//body/script"))
    assert "&lt;script&gt;" in page


def test_nothing_is_loaded(page):
    """No address but those that hold their picture; and the page forbids any other."""
    tree = parsed(page)
    for element in tree.iter():
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert element.get(name, "data:").startswith("data:")
    assert not re.search(r"url\(|@import", page)
    policy = tree.find(".//meta[@http-equiv]").get("content")
    assert "default-src 'none'" in policy


def test_the_same_audit_gives_the_same_page(found, page):
    assert audit_html(found, source="a log & more", made=MADE) == page


def test_something_else_is_shown_the_door():
    with pytest.raises(ValueError, match="found: int is not of Audit; audit gives it"):
        audit_html(3)


def test_a_log_too_short_says_so():
    found = jaxent.audit(log_of_two(num_steps=60), discount=0.9)
    text = text_of(parsed(audit_html(found, made=MADE)))
    assert "nan" not in text.lower().split()
    assert found.verdict in text


def test_a_critic_and_a_shared_reward(log):
    """The critic is judged first; notes and the reward's split are told."""
    trajectory = jaxent.read_log(log).trajectory
    critic = np.linspace(0, 1, trajectory.num_epochs)
    found = jaxent.audit(log, discount=0.9, critic=critic, notes=("read <twice>",))
    tree = parsed(audit_html(found, made=MADE))
    kinds = [text_of(h) for h in tree.iter("h3")]
    assert kinds[:2] == ["Of the critic", "Of the sum of local values"]
    assert "read <twice>" in [text_of(note) for note in tree.findall(".//ul/li")]


def test_the_command_writes_it(log, tmp_path, capsys):
    main = pytest.importorskip("jaxent.reporting.cli").main
    log.to_csv(tmp_path / "log.csv", index=False)
    report, out = tmp_path / "report.html", tmp_path / "out"
    call = ["audit", str(tmp_path / "log.csv"), "--out", str(out), "--html"]
    assert main([*call, str(report)]) == 0
    assert str(report) in capsys.readouterr().out
    tree = parsed(report.read_text())
    assert "log.csv" in text_of(tree.find(".//title"))
    for bad, match in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "r.html", "there is no folder"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*call, str(bad)])
        assert ended.value.code == 2
        assert match in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, which writes down what it asks for and what goes wrong."""
    pytest.importorskip("selenium", reason="a page is looked at by selenium (dev group)")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("a page is looked at in Chromium, and there is none: install chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    shown = Chrome(options, Service(driver))
    yield shown
    shown.quit()


@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser(width, browser, page, found, tmp_path):
    """It renders, nothing is asked of a network, the console is silent, the tables sort, and
    nothing but a table is wider than the screen."""
    path = tmp_path / "report.html"
    path.write_text(page)
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("performance")
    browser.get(path.as_uri())
    assert browser.title == f"Audit of a log & more: {found.verdict}"
    assert browser.get_log("browser") == []
    asked = re.findall(
        r'"url":"(\w+:)', "".join(x["message"] for x in browser.get_log("performance"))
    )
    assert {"file:", "data:"} >= set(asked) - {"about:", "chrome:"}
    assert "file:" in asked
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for image in browser.find_elements("css selector", "img"):
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
    size = browser.execute_script("return parseFloat(getComputedStyle(document.body).fontSize)")
    assert size >= 16

    def agents():
        cells = browser.find_elements("css selector", "table.sorts:first-of-type td:first-child")
        return [cell.text for cell in cells[: len(found.agents)]]

    before = agents()
    heading = browser.find_element("css selector", "table.sorts th button")
    heading.click()
    assert agents() == sorted(before, reverse=True)
    heading.click()
    assert agents() == sorted(before)
