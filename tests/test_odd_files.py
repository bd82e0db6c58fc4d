"""Odd files and odd options: exit code 0 with the right labels and times, or 2 with one line.

The estimates are left out, for they are tested elsewhere and take seconds each: what is read, what
is refused, what is printed and what is written are as a user has them.
"""

import gzip
import json
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxent import plotting
from jaxent.auditing import report
from jaxent.auditing.agent_estimates import AgentEstimates
from jaxent.auditing.learned_sum import LearnedSum

pd = pytest.importorskip("pandas")
main = pytest.importorskip("jaxent.reporting.cli").main

BLANK, draw = Figure((1, 1)), plotting.plot_audit

EPOCHS = 52
HEADING = ("t", "agent", "state", "action", "reward")


def rows(**columns):
    """Rows of two agents, a column being a list of cells to go round in, or a function of t."""
    cells = {"t": str, "agent": ["k", "l"], "state": ["s", "r", "r"], "action": ["a"]}
    cells |= {"reward": ["0.5"]} | columns
    table = []
    for k in range(2 * EPOCHS):
        table.append([c(k // 2) if callable(c) else c[k % len(c)] for c in cells.values()])
    return table, tuple(cells)


def text(sep=",", end="\n", heading=None, **columns):
    table, names = rows(**columns)
    return end.join(sep.join(r) for r in [heading or names, *table]) + end


def changed(row, line):
    """A log one of whose lines, counted from 1, is another, or with several lines there."""
    lines = text().splitlines()
    lines[row - 1 : row] = [line] if isinstance(line, str) else line
    return "\n".join(lines) + "\n"


def cell(column, value, row=5):
    """A log one of whose cells is another."""
    here = text().splitlines()[row - 1].split(",")
    here[HEADING.index(column)] = value
    return changed(row, ",".join(here))


def frame(**columns):
    table, names = rows()
    made = pd.DataFrame(table, columns=list(names))
    made["t"], made["reward"] = made["t"].astype(int), 0.5
    for name, values in columns.items():
        made[name] = pd.Series([values[k % len(values)] for k in range(len(made))])
    return made


def parquet(**columns):
    return lambda path: frame(**columns).to_parquet(path.with_name("log.parquet"))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command on a file, in a folder of its own; what it gave, and what it audited."""
    seen = []

    def estimates(key, trajectory, *rest):
        seen.append(trajectory)
        zero = np.zeros(trajectory.num_agents)
        return AgentEstimates(zero, zero, zero + 0.01, zero + 1, np.zeros((len(zero), 20)))

    def learned(trajectory, discount):
        size = (trajectory.num_agents, trajectory.num_pairs)
        local = np.ones(size), np.zeros(size), np.full(size, 1 / size[1])
        return LearnedSum(*local, scale=1.0, spread=1.0, level=1.0, level_error=0.0, sampling=0.0)

    monkeypatch.setattr(report, "from_logs", estimates)
    monkeypatch.setattr(report, "influence_map", lambda *rest: np.zeros((0, 0)))
    monkeypatch.setattr(report, "learned_sum", learned)
    # Labels that a picture could take for something else are drawn; the others cost 0.3 s each.
    monkeypatch.setattr(plotting, "plot_audit", lambda found: draw(found) if odd(found) else BLANK)
    monkeypatch.chdir(tmp_path)

    def run(content, options=(), name="log.csv"):
        path = tmp_path / name
        if callable(content):
            content(path)
            name = next(tmp_path.glob("log*")).name
        elif content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            code = main(["audit", name, *options])
        except SystemExit as ended:
            code = ended.code
        out = capsys.readouterr()
        return SimpleNamespace(code=code, out=out.out, err=out.err, audited=seen, folder=tmp_path)

    return run


def odd(found):
    return any(not c.isalnum() or not c.isascii() for agent in found.agents for c in str(agent))


def plain(line):
    return all(c.isprintable() for c in line.removesuffix("\n"))


def check_report(ran):
    assert (ran.code, ran.err) == (0, "")
    assert "\nverdict: " in ran.out
    assert all(map(plain, ran.out.splitlines()))
    folder = ran.folder / "audit-log"
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == ["audit.json", "audit.png"]
    assert files[0].stat().st_mode == files[1].stat().st_mode
    return json.loads(files[0].read_text())


# Pairs of labels that a reader which guesses would take for one, for a number, or for nothing.
LABELS = [
    ("1.1", "1.10"),
    ("1", "01"),
    ("1", "+1"),
    ("1", "1.0"),
    ("0", "-0"),
    ("1e2", "100"),
    ("16", "0x10"),
    ("1000", "1_000"),
    ("9007199254740992", "9007199254740993"),
    ("NA", "None"),
    ("NaN", "null"),
    ("nan", "NULL"),
    ("<NA>", "N/A"),
    ("#N/A", "n/a"),
    ("inf", "1e400"),
    ("True", "true"),
    ("False", "0"),
    ("-", "--"),
    ("a", "a "),
    (" a", "a"),
    ("1", "١"),
    ("é", "e\u0301"),
    ("2024-01-01", "2024-1-1"),
    ("$x^$", "_y_{"),
    ("red", "\x1b[31mred"),
    ("ab", "a\u202eb"),
    ("x", "x" * 5000),
    ("\\n", "\\t"),
    ("'q'", "q"),
    ("東京", "大阪"),
]


@pytest.mark.parametrize(
    ("column", "labels"),
    [("state", pair) for pair in LABELS]
    + [("agent", pair) for pair in LABELS[::2]]
    + [("action", pair) for pair in LABELS[::4]]
    + [("signal", pair) for pair in LABELS[1::4]],
    ids=lambda value: ascii(value)[:30],
)
def test_labels_are_as_written(command, column, labels):
    by_epoch = (lambda t: labels[t % 2]) if column == "signal" else list(labels)
    ran = command(text(**{column: by_epoch}))
    content = check_report(ran)
    assert set(getattr(ran.audited[0].labels, f"{column}s")) == set(labels)
    if column == "agent":
        assert set(content["agents"]) == set(labels)


S, MS, NS = 1_700_000_000, 1_700_000_000_000, 1_700_000_000_000_000_001
MINUTE = 60 * 10**9


def iso(form, start=S, step=60):
    def at(t):
        return str(np.datetime64(start + step * t, "s")) if form is None else form(start + step * t)

    return at


def day(seconds):
    return str(np.datetime64(seconds, "s"))


# What t holds, the options, and what it is: the first time and the step.
TIMES = {
    "from 0": (str, (), 0, 1),
    "from 5": (lambda t: str(t + 5), (), 5, 1),
    "zeros in front": (lambda t: f"{t:04}", (), 0, 1),
    "signs": (lambda t: f"+{t}", (), 0, 1),
    "spaces": (lambda t: f" {t} ", (), 0, 1),
    "quoted": (lambda t: f'"{t}"', (), 0, 1),
    "floats": (lambda t: f"{t}.0", (), 0, 1),
    "powers": (lambda t: f"{t + 1}e3", (), 1000, 1000),
    "seconds": (lambda t: str(S + 60 * t), (), S, 60),
    "milliseconds": (lambda t: str(MS + 60_000 * t), (), MS, 60_000),
    "microseconds": (lambda t: str(MS * 1000 + 3 * t), (), MS * 1000, 3),
    "nanoseconds": (lambda t: str(NS + 10**9 * t), (), NS, 10**9),
    "beyond a float": (lambda t: str(2**53 + t), (), 2**53, 1),
    "as floats beyond a float": (lambda t: f"{2**53 + t}.0", (), 2**53, 1),
    "at the end": (lambda t: str(2**63 - EPOCHS + t), (), 2**63 - EPOCHS, 1),
    "far apart": (lambda t: str(2**32 * t), (), 0, 2**32),
    "a step": (lambda t: str(10 * t), ("--step", "10"), 0, 10),
    "a step as a float": (lambda t: str(10 * t), ("--step", "10.0"), 0, 10),
    "dates": (lambda t: day(86_400 * t)[:10], (), 0, 1440 * MINUTE),
    "timestamps": (iso(None), (), S * 10**9, MINUTE),
    "without seconds": (iso(lambda x: day(x - 20)[:16]), (), (S - 20) * 10**9, MINUTE),
    "with a space": (iso(lambda x: day(x).replace("T", " ")), (), S * 10**9, MINUTE),
    "UTC": (iso(lambda x: day(x) + "Z"), (), S * 10**9, MINUTE),
    "a time zone": (iso(lambda x: day(x + 7200) + "+02:00"), (), S * 10**9, MINUTE),
    "milliseconds behind": (iso(lambda x: day(x) + ".25"), (), S * 10**9 + 250_000_000, MINUTE),
    "nanoseconds behind": (iso(lambda x: day(x) + ".000000001"), (), S * 10**9 + 1, MINUTE),
    "before 1970": (iso(None, start=-(10**6)), (), -(10**15), MINUTE),
    "a step in seconds": (iso(None), ("--step", "60"), S * 10**9, MINUTE),
    "a step below": (iso(None, step=1), ("--step", "1.0"), S * 10**9, 10**9),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_exact(command, name):
    t, options, first, step = TIMES[name]
    ran = command(text(t=t), options)
    check_report(ran)
    run = ran.audited[0]
    assert run.time.tolist() == [first + step * k for k in range(EPOCHS)]
    assert run.step == step
    assert run.follows.all()
    assert ("t goes by" in ran.out) == (step != 1)


def with_bom(content):
    return b"\xef\xbb\xbf" + content.encode()


def zipped(content):
    return gzip.compress(content.encode(), mtime=0)


SHUFFLED = "\n".join([text().splitlines()[0], *sorted(text().splitlines()[1:])]) + "\n"
OTHER = ("time", "id", "s,1", "what", "pay")

# Content, options, name, and what the labels of states are.
SHAPES = {
    "plain": (text(), (), "log.csv"),
    "CRLF": (text(end="\r\n"), (), "log.csv"),
    "CR": (text(end="\r"), (), "log.csv"),
    "no end": (text().rstrip(), (), "log.csv"),
    "byte order mark": (with_bom(text()), (), "log.csv"),
    "blank lines first": ("\n\n" + text(), (), "log.csv"),
    "blank lines within": (text().replace("1,k", "\n\n1,k", 1), (), "log.csv"),
    "blank lines last": (text() + "\n\r\n\n", (), "log.csv"),
    "all quoted": (text(sep='","').replace("\n", '"\n"')[:-1].join(['"', ""]), (), "log.csv"),
    "large letters": (text(), (), "log.CSV"),
    "semicolons": (text(sep=";"), ("--sep", ";"), "log.csv"),
    "tabs": (text(sep="\t"), ("--sep", "\\t"), "log.csv"),
    "tabs by name": (text(sep="\t"), ("--sep", "tab"), "log.csv"),
    "tsv": (text(sep="\t"), (), "log.tsv"),
    "bars": (text(sep="|"), ("--sep", "|"), "log.csv"),
    "blanks": (text(sep=" "), ("--sep", " "), "log.csv"),
    "another ending": (text(), ("--sep", ",", "--out", "audit-log"), "log.txt"),
    "utf-16": (text().encode("utf-16"), ("--encoding", "utf-16"), "log.csv"),
    "utf-32-le": (text().encode("utf-32-le"), ("--encoding", "utf-32-le"), "log.csv"),
    "compressed": (zipped(text()), (), "log.csv.gz"),
    "compressed tabs": (zipped(text(sep="\t")), (), "log.tsv.gz"),
    "shuffled": (SHUFFLED, (), "log.csv"),
    "an index": (
        "\n".join(f"{k if k else ''},{line}" for k, line in enumerate(text().splitlines())),
        (),
        "log.csv",
    ),
    "more columns": (text(colour=["red"], size=["1", ""]), (), "log.csv"),
    "other headings": (
        text(heading=("time", "id", '"s,1"', "what", "pay")),
        ("--columns", "t=time,agent=id,state=s,1,action=what,reward=pay"),
        "log.csv",
    ),
    "Parquet": (parquet(), (), "log.csv"),
    "rewards": (text(reward=["1e-3", " 1", "+1", ".5", "1.", "-0"]), (), "log.csv"),
    "given labels": (text(), ("--states", "s", "r", "--actions", "a"), "log.csv"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_files(command, name):
    content, options, path = SHAPES[name]
    ran = command(content, options, path)
    check_report(ran)
    run = ran.audited[0]
    assert run.labels.agents == ("k", "l")
    assert sorted(run.labels.states) == ["r", "s"]
    assert run.labels.actions == ("a",)
    if name != "shuffled":
        want = [run.labels.states.index("s" if k % 3 == 0 else "r") for k in range(2 * EPOCHS)]
        assert run.states.ravel().tolist() == want
    if name == "rewards":
        assert run.rewards.ravel()[:6].tolist() == [1e-3, 1, 1, 0.5, 1, 0]


# Labels of a typed column, and how they are named on the command line.
TYPED = {
    "integers": (("state", [2, 10]), (2, 10), ()),
    "large integers": (("state", [2**53, 2**53 + 1]), (2**53, 2**53 + 1), ()),
    "floats": (("state", [0.5, 1.5]), ("0.5", "1.5"), ("--states", "0.5", "1.5")),
    "floats as integers": (("state", [0.0, 1.0]), ("1", "0"), ("--states", "1", "0")),
    "booleans": (("action", [False, True]), ("False", "True"), ("--actions", "False", "True")),
    "text": (("state", ["01", "1"]), ("01", "1"), ()),
    "lists": (("state", [[0, 1], [1, 0]]), ((0, 1), (1, 0)), ()),
    "lists of lists": (("state", [[[0], [1]], [[], [2]]]), (((), (2,)), ((0,), (1,))), ()),
    "bytes": (("state", [b"x", b"y"]), (b"x", b"y"), ()),
    "decimals": (
        ("state", [Decimal("1.10"), Decimal("1.20")]),
        (Decimal("1.10"), Decimal("1.20")),
        (),
    ),
    "dates": (("state", list(pd.to_datetime(["2024-01-01", "2024-01-02"]).date)), None, ()),
    "categories": (("state", pd.Categorical(["b", "a"], ["c", "b", "a"])), ("a", "b"), ()),
}


@pytest.mark.parametrize("name", TYPED)
def test_labels_of_types(command, name):
    (column, values), labels, options = TYPED[name]
    ran = command(parquet(**{column: values}), options)
    check_report(ran)
    found = getattr(ran.audited[0].labels, f"{column}s")
    assert found == (tuple(values) if labels is None else labels)


def test_integers_of_text_on_the_command_line(command):
    ran = command(text(state=["0", "1"]), ("--states", "1", "0"))
    check_report(ran)
    assert ran.audited[0].labels.states == ("1", "0")
    assert ran.audited[0].states[0].tolist() == [1, 0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_columns_of_timestamps(command, unit, zone):
    start = np.datetime64("2024-03-30T20:00", "s")  # the clocks go forward in between
    when = pd.DatetimeIndex(start + np.timedelta64(900, "s") * np.arange(EPOCHS)).as_unit(unit)
    when = when.tz_localize("UTC").tz_convert(zone) if zone else when
    ran = command(parquet(t=list(when.repeat(2))))
    check_report(ran)
    assert ran.audited[0].step == 15 * MINUTE
    assert ran.audited[0].time[0] == start.astype("datetime64[ns]").astype(int)
    assert "t goes by 900 s" in ran.out


WIDE = "t,state_k,state_l,action_k,action_l,reward_k,reward_l\n0,s,s,a,a,1,1\n"

# Content, options and name, and what the one line says.
REFUSED = {
    # The shape of the file.
    "one more cell": (
        changed(5, "1,l,r,a,0.5,9"),
        (),
        "log.csv: row 5: has 6 cells where the heading has 5",
    ),
    "one cell less": (changed(5, "1,l,r,a"), (), "row 5: has 4 cells where the heading has 5"),
    "one more in each": (text(reward=["0.5,9"]), (), "row 2: has 6 cells"),
    "commas at the end": (text(reward=["0.5,"]), (), "row 2: has 6 cells"),
    "commas at every end": (text(end=",\n"), (), "column 6 has no heading"),
    "after blank lines": (changed(5, ["", "", "1,l,r,a"]), (), "row 7: has 4 cells"),
    "after a newline in quotes": (
        changed(4, ['1,k,"r', 's",a,0.5', "1,l,r,a,much"]),
        (),
        "row 6, column reward: 'much'",
    ),
    "heading twice": (
        text(heading=("t", "agent", "state", "state", "reward")),
        (),
        "column 'state' is there twice",
    ),
    "another heading twice": (
        text(x=["1"], heading=(*HEADING, "t")),
        (),
        "column 't' is there twice",
    ),
    "no heading": (text(heading=("0", "k", "s", "a", "0.5")), (), "column t is missing"),
    "large headings": (text(heading=("T", *HEADING[1:])), (), "--columns t=HEADING"),
    "headings with blanks": (
        text(heading=("t", " agent", *HEADING[2:])),
        (),
        "column agent is missing",
    ),
    "a column less": (
        "\n".join(line.rsplit(",", 1)[0] for line in text().splitlines()),
        (),
        "column reward is missing",
    ),
    "plurals": (
        text(heading=("t", "agent", "states", "actions", "rewards")),
        (),
        "got t, agent, states, actions, rewards; name another heading by",
    ),
    "wide": (WIDE, (), "state_k and state_l look like a column for each agent"),
    "empty": ("", (), "log.csv: is empty"),
    "a blank line": ("\n", (), "log.csv: is empty"),
    "a byte order mark": (with_bom(""), (), "log.csv: is empty"),
    "a heading": (",".join(HEADING) + "\n", (), "log.csv: has no rows"),
    "a quote": (changed(5, '1,l,"r,a,0.5'), (), "row 5: cannot be read (unexpected end of data)"),
    "a quote in the heading": ('t,"agent\n', (), "row 1"),
    "after a quote": (
        changed(5, '1,l,"r"s,a,0.5'),
        (),
        "row 5: cannot be read (',' expected after '\"')",
    ),
    "semicolons": (text(sep=";"), (), "--sep ';'"),
    "tabs": (text(sep="\t"), (), "--sep '\\t'"),
    "commas in a .tsv": (text(), (), "--sep ','", "log.tsv"),
    "latin-1": (text(agent=["é", "k"]).encode("latin-1"), (), "row 2: is not text in utf-8"),
    "utf-16": (text().encode("utf-16"), (), "--encoding"),
    "utf-16 that is not": (text()[:-1], ("--encoding", "utf-16"), "log.csv"),
    "compressed": (zipped(text()), (), "row 1: is not text"),
    "not compressed": (text(), (), "log.csv.gz: cannot be read", "log.csv.gz"),
    "half of it": (zipped(text())[:-20], (), "log.csv.gz: cannot be read", "log.csv.gz"),
    "zeros": (bytes(1000), (), "column t is missing"),
    "no Parquet": (b"PAR1", (), "log.parquet: cannot be read", "log.parquet"),
    "no Parquet at all": (text(), (), "log.parquet: cannot be read", "log.parquet"),
    "a sheet": (text(), (), "wanted a file that ends in .csv", "log.xlsx"),
    "no ending": (text(), (), "wanted a file that ends in .csv", "log"),
    "a strange name": (text(), (), "log\\x1b[31m.xls: wanted", "log\x1b[31m.xls"),
    "nothing": (None, (), "log.csv: cannot be read (No such file"),
    "a folder": (lambda path: path.mkdir(), (), "log.csv: cannot be read (Is a directory)"),
    "a name that is too long": (
        None,
        (),
        "cannot be read (File name too long)",
        "x" * 300 + ".csv",
    ),
    # Cells.
    "no state": (cell("state", ""), (), "row 5, column state: is empty"),
    "no state in quotes": (cell("state", '""'), (), "row 5, column state: is empty"),
    "no action": (cell("action", ""), (), "row 5, column action: is empty"),
    "no agent": (cell("agent", ""), (), "row 5, column agent: is empty"),
    "no time": (cell("t", ""), (), "row 5, column t: is empty"),
    "no reward": (cell("reward", ""), (), "row 5, column reward: is empty"),
    "no signal": (text(signal=["", "x"]), (), "row 2, column signal: is empty"),
    "commas only": (changed(5, ",,,,"), (), "row 5, column t: is empty"),
    **{
        f"reward {value}": (cell("reward", value), (), f"row 5, column reward: {shown}")
        for value, shown in {
            "much": "'much' is not a number",
            "NA": "'NA' is not a number",
            "1_0": "'1_0' is not a number",
            "٣": "'٣' is not a number",
            "0x1": "'0x1' is not a number",
            '"0,5"': "'0,5' is not a number; write decimals with a point",
            "\x1b[31m": "'\\x1b[31m' is not a number",
            "NaN": "nan is not finite",
            "-inf": "-inf is not finite",
            "1e400": "inf is not finite",
        }.items()
    },
    **{
        f"time {value}": (cell("t", value), (), f"row 5, column t: {shown}")
        for value, shown in {
            "-1": "-1 is negative",
            "0.5": "0.5 is not an integer",
            "now": "'now' is not a number",
            "1_000": "'1_000' is not a number",
            "١": "'١' is not a number",
            "nan": "nan is not finite",
            "inf": "inf is not finite",
            "1e-3": "1e-3 is not an integer",
            "9223372036854775808": "9223372036854775808 needs more than 64 bits",
            "1e999999999": "1e999999999 needs more than 64 bits",
            "1" * 5000: "1111",
            "2024-01-01": "2024-01-01 is a timestamp, but earlier rows have a number",
            "2024-02-30": "2024-02-30 is no time of any day",
            "2024-01-01T25:00": "2024-01-01T25:00 is no time of any day",
            "01/02/2024": "'01/02/2024' is not a number, nor a timestamp",
        }.items()
    },
    "time zones that come and go": (
        text(t=iso(lambda x: day(x) + ("Z" if x // 60 % 2 else ""))),
        (),
        "is a timestamp",
    ),
    # Who was when.
    "twice": (
        changed(4, ["1,k,r,a,0.5"] * 2),
        (),
        "row 5, column agent: k has a row for t = 1 already, row 4",
    ),
    "a gap": (
        changed(4, []),
        (),
        "k lacks 1; fill the rows, give the step of t (step=, --step), or allow gaps",
    ),
    "a jump": (text(t=lambda t: str(t + (t > 20))), (), "no rows between 20 and 22"),
    "a jump of 2^32": (
        text(t=lambda t: str(t + 2**32 * (t > 20))),
        (),
        "no rows between 20 and 4294967317",
    ),
    "milliseconds with a gap": (
        text(t=lambda t: str(MS + 60_000 * (t + (t > 20)))),
        (),
        "1700001200000 and 1700001320000, a step being 60000",
    ),
    "a timestamp with a gap": (
        text(t=iso(lambda x: day(x + 60 * (x > S)))),
        (),
        "no rows between 2023-11-14T22:13:20 and 2023-11-14T22:15:20, a step being 60 s",
    ),
    "only one agent": (
        "".join(f"{line}\n" for line in text().splitlines() if ",l," not in line),
        (),
        "column agent: every row is of k",
    ),
    "few epochs": ("\n".join(text().splitlines()[:81]), (), "column t: 40 epochs are too few"),
    "signals that differ": (
        text(signal=["x", "y"]),
        (),
        "column signal: x differs from that of another agent",
    ),
    "rewards that differ": (
        text(reward=["1", "2"]),
        ("--shared-reward",),
        "column reward: 1 differs",
    ),
    # Too many.
    "continuous states": (
        text(state=[f"{k / 7}" for k in range(999)]),
        (),
        "column state: is continuous: 104 different numbers in 104 rows; put them into bins",
    ),
    "continuous actions": (
        text(action=[f"{k / 7}" for k in range(999)]),
        (),
        "column action: is continuous",
    ),
    "many names": (
        text(state=[f"s{k}" for k in range(64)], action=[f"a{k}" for k in range(17)]),
        (),
        "column state: 64 labels are too many: 64 states and 17 actions are 1088 local pairs, ",
    ),
    "continuous Parquet": (
        parquet(state=list(np.arange(999) / 7)),
        (),
        "column state: is continuous",
    ),
    "a state for each row": (parquet(state=list(range(999))), (), "column state: is continuous"),
    # Types.
    "structs": (
        parquet(state=[{"x": 1}]),
        (),
        "log.parquet: row 0, column state: {'x': 1} is no label",
    ),
    "lists of structs": (
        parquet(state=[[{"x": 1}]]),
        (),
        "row 0, column state: ({'x': 1},) is no label",
    ),
    "lists as rewards": (
        parquet(reward=[[1.0]]),
        (),
        "row 0, column reward: (1.0,) is not a number",
    ),
    "lists as times": (parquet(t=[[1]]), (), "row 0, column t: (1,) is not a number"),
    "truth as times": (parquet(t=[True]), (), "row 0, column t: True is not a number"),
    "lists with NaN": (
        parquet(state=[[np.nan, 1]]),
        (),
        "row 0, column state: (nan, 1.0) holds NaN",
    ),
    "nulls": (parquet(state=["s", None]), (), "row 1, column state: is empty"),
    "not a number": (parquet(state=[1.0, np.nan]), (), "row 1, column state: is empty"),
    "times beyond a float": (
        parquet(t=[float(2**53)]),
        (),
        "row 0, column t: 9007199254740992 is more than a float64 holds",
    ),
    "times beyond 64 bits": (
        parquet(t=pd.array([2**63], "uint64")),
        (),
        "row 0, column t: 9223372036854775808 needs more than 64 bits",
    ),
    "a delimiter for Parquet": (parquet(), ("--sep", ";"), "sep: is for text files"),
    # Options.
    "labels twice": (
        text(),
        ("--states", "0", "1", "1"),
        "known['state'] (--states): 1 is there twice",
    ),
    "another label": (text(), ("--states", "s"), "row 3, column state: r is none of the 1 labels"),
    "labels written otherwise": (
        text(state=["01"]),
        ("--states", "1"),
        "row 2, column state: 01 is none of",
    ),
    "a seed of 64 bits": (
        text(),
        ("--seed", str(2**63)),
        "--seed: 9223372036854775808 is outside 0..4294967295",
    ),
    "a negative seed": (text(), ("--seed", "-1"), "--seed: -1 is outside"),
    "no discount": (text(), ("--discount", "nan"), "discount: nan is outside [0, 1)"),
    "discount 1": (text(), ("--discount", "1"), "discount: 1 is outside [0, 1)"),
    "no visits": (text(), ("--min-visits", "0"), "min_visits: 0 is not an integer"),
    "many visits": (
        text(),
        ("--min-visits", str(10**30)),
        "min_visits: 1000000000000000000000000000000 is more",
    ),
    "no permutations": (text(), ("--num-permutations", "0"), "num_permutations: 0 is not"),
    "many permutations": (text(), ("--num-permutations", str(10**30)), "num_permutations: 1"),
    "two delimiters": (text(), ("--sep", ",,"), "sep: wanted one character"),
    "no delimiter": (text(), ("--sep", ""), "sep: wanted one character"),
    "a letter between": (text(), ("--sep", "a"), "sep: wanted one character"),
    "no encoding": (text(), ("--encoding", "klingon"), "encoding: 'klingon' is no encoding"),
    "an encoding of bytes": (text(), ("--encoding", "hex"), "encoding: 'hex' is no encoding"),
    "columns without names": (text(), ("--columns", "time"), "--columns: wanted t=HEADING"),
    "columns without headings": (text(), ("--columns", "t="), "--columns: wanted t=HEADING"),
    "columns twice": (text(), ("--columns", "t=t,t=time"), "--columns: wanted t=HEADING"),
    "another column": (text(), ("--columns", "time=t"), "columns: time is none of t, agent"),
    "a column that is not there": (text(), ("--columns", "signal=z"), "column z is missing"),
    "step 0": (text(), ("--step", "0"), "step: 0 is not an integer of at least 1"),
    "step -1": (text(), ("--step", "-1"), "step: -1 is not an integer"),
    "step 1.5": (text(), ("--step", "1.5"), "step: 1.5 is not an integer"),
    "step x": (text(), ("--step", "x"), "step: x is not an integer"),
    "a large step": (text(), ("--step", "1e999999999"), "step: 1e999999999 is not an integer"),
    "a step that does not fit": (
        text(),
        ("--step", "2"),
        "row 5, column t: 1 is 1 after the epoch before, no multiple of the step 2",
    ),
    "a step below a nanosecond": (
        text(t=iso(None)),
        ("--step", "1e-10"),
        "step: 1e-10 is not a number of seconds",
    ),
    "a file for a folder": (
        text(),
        ("--out", "log.csv"),
        "--out log.csv: cannot write there (File exists)",
    ),
    "a folder in a file": (
        text(),
        ("--out", "log.csv/out"),
        "--out log.csv/out: cannot write there",
    ),
    "a long folder": (text(), ("--out", "x" * 300), "cannot write there (File name too long)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_line_and_leave_nothing(command, name, tmp_path):
    content, options, problem, *path = REFUSED[name]
    ran = command(content, options, *path)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("jaxent audit: ")
    assert ran.err.count("\n") == 1
    assert plain(ran.err)
    assert problem in ran.err
    left = {file.name for file in tmp_path.rglob("*")}
    assert left <= {*path, "log.csv", "log.parquet"}


def test_gaps_that_are_allowed_are_counted(command):
    content = text(t=lambda t: str(t + 2**32 * (t > 20)))
    ran = command(content.replace("\n3,k,s,a,0.5", ""), ("--allow-gaps",))
    check_report(ran)
    run = ran.audited[0]
    assert run.time[-1] == EPOCHS - 1 + 2**32
    # The jump is no transition, though it is one step in 32 bits.
    assert np.flatnonzero(~run.follows.all(1)).tolist() == [2, 3, 20]
    assert f"note: epochs without rows: k lacks {2**32 + 1}, l lacks {2**32}" in ran.out
