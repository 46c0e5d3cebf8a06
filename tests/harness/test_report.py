"""What the page says, without a browser: verdicts, counts, gaps, margins, and text that stays text."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import conformance
from conformance.compare import Change
from conformance.matrix import State
from conformance.report.changes import Verdict
from conformance.report.heat import heat_map
from conformance.report.html import html
from conformance.report.page import page
from conformance.report.table import table
from tests.harness.conftest import Done
from tests.harness.versions_recorded import (
    CLOSED,
    DRAFT,
    GAP,
    NOT_RUN,
    PASS,
    PLAIN,
    REFUSED,
    SHORT,
    SOFTCAP,
    TWICE,
    WIDE,
    WRONG,
    written,
)

OLD = {PLAIN: PASS, SOFTCAP: REFUSED, DRAFT: WRONG, WIDE: PASS, TWICE: PASS}
NEW = OLD | {DRAFT: PASS}


def two(folder: Path, old: dict[str, Any] = OLD, new: dict[str, Any] = NEW) -> list[Path]:
    return [written(folder, "b.jsonl", new, "0.1.20.post1"), written(folder, "a.jsonl", old, "0.1.16")]


def test_versions_stand_in_their_order_whatever_the_order_of_their_files(tmp_path: Path) -> None:
    paths = [
        *two(tmp_path),
        written(tmp_path, "c.jsonl", NEW, "0.1.9.post1"),
        written(tmp_path, "d.jsonl", NEW, "0.1.21.dev46+gab"),
    ]
    names = [version.name for version in page(paths).versions]
    assert names == ["aiter 0.1.9.post1", "aiter 0.1.16", "aiter 0.1.20.post1", "aiter 0.1.21.dev46"]


def test_the_answer_has_the_figures_of_the_newest_version_against_the_one_before(tmp_path: Path) -> None:
    (answer,) = page(two(tmp_path)).answers
    assert answer.verdict is Verdict.GOOD
    assert answer.sentence == (
        "From aiter 0.1.16 to aiter 0.1.20.post1 on interpreter:gfx942, of 5 checks in common none regressed and "
        "1 got fixed; of 4 checks that ran 4 pass; 1 refused."
    )


def test_the_answer_says_how_many_fail_and_why(tmp_path: Path) -> None:
    (answer,) = page(two(tmp_path, new=NEW | {PLAIN: WRONG, WIDE: GAP})).answers
    assert answer.sentence.endswith(
        "of 4 checks that ran 2 pass and 2 fail (1 unexplained, 1 as declared gaps expect); 1 refused."
    )


def test_the_answer_of_two_versions_without_a_check_in_common_compares_nothing(tmp_path: Path) -> None:
    (answer,) = page(two(tmp_path, old={DRAFT: PASS}, new={PLAIN: PASS})).answers
    assert answer.sentence.endswith("; aiter 0.1.16 has no check in common with it.")


def test_beside_an_older_version_that_was_cut_nothing_is_said_to_be_as_it_was(tmp_path: Path) -> None:
    cut = {check: result for check, result in OLD.items() if check != PLAIN}
    paths = [
        written(tmp_path, "a.jsonl", cut, "0.1.16", planned=[PLAIN], cut=True),
        written(tmp_path, "b.jsonl", NEW, "0.1.17"),
    ]
    assert page(paths).answers[0].verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (NEW, Verdict.GOOD),
        (NEW | {PLAIN: WRONG}, Verdict.REGRESSED),
        (OLD, Verdict.UNEXPLAINED),
        (NEW | {WIDE: NOT_RUN}, Verdict.REDUCED),
        (dict.fromkeys(OLD, NOT_RUN), Verdict.NOTHING_RAN),
    ],
)
def test_the_verdict(tmp_path: Path, new: dict[str, Any], verdict: Verdict) -> None:
    assert page(two(tmp_path, new=new)).answers[0].verdict is verdict


def test_a_cut_record_is_no_answer_and_raises_a_banner(tmp_path: Path) -> None:
    paths = [
        written(tmp_path, "a.jsonl", OLD, "0.1.16"),
        written(tmp_path, "b.jsonl", {PLAIN: PASS}, "0.1.17", planned=[WIDE], title="9 chosen cases"),
    ]
    made = page(paths)
    assert made.answers[0].verdict is Verdict.INCOMPLETE
    said = [said for name, said in made.warnings if name == "aiter 0.1.17"]
    assert said == [
        "INCOMPLETE: a run was cut short, or a shard is missing",
        "REDUCED: 9 chosen cases, not a tier",
        "REDUCED: 4 checks that another version of its kind has were not run",
    ]
    assert 'role="alert"' in html(made)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"title": "3 chosen cases"}, "REDUCED: 3 chosen cases, not a tier"),
        ({"deselected": [SHORT]}, "REDUCED: 1 of 6 checks of tier smoke were deselected"),
        ({"target": "compile:gfx942"}, "BUILT, NOT RUN: this says nothing about numbers"),
        ({"planned": [SHORT]}, "INCOMPLETE: a run was cut short, or a shard is missing"),
    ],
)
def test_a_reduced_run_says_so(tmp_path: Path, how: dict[str, Any], said: str) -> None:
    made = page([written(tmp_path, "a.jsonl", OLD, **how)])
    assert said in [said for _, said in made.warnings]


def test_a_version_that_does_not_import_says_why(tmp_path: Path) -> None:
    absent = {"status": "NOT RUN", "reason": "AITER 0.1.11 does not import: no dtypes"}
    made = page([*two(tmp_path), written(tmp_path, "c.jsonl", dict.fromkeys(OLD, absent), "0.1.11")])
    assert made.warnings == [("aiter 0.1.11", "NOT RUN: AITER 0.1.11 does not import: no dtypes")]


def test_what_was_only_built_is_neither_reduced_nor_lacks_what_runs_elsewhere_alone(tmp_path: Path) -> None:
    """A relation needs answers, and a target that only builds has none."""
    built = {PLAIN: PASS, DRAFT: PASS}
    paths = [*two(tmp_path), written(tmp_path, "c.jsonl", built, "0.1.20.post1", "compile:gfx942")]
    ran, only_built = page(paths).answers
    assert ran.verdict is Verdict.GOOD
    assert only_built.verdict is Verdict.BUILT
    assert only_built.sentence == "aiter 0.1.20.post1, compile:gfx942: of 2 checks that were built 2 build."
    broken = written(tmp_path, "d.jsonl", built | {DRAFT: WRONG}, "0.1.21", "compile:gfx950")
    assert page([*paths, broken]).answers[2].verdict is Verdict.UNEXPLAINED


def test_what_was_only_built_claims_nothing_about_checks_of_runs_alone(tmp_path: Path) -> None:
    built = {PLAIN: PASS, DRAFT: PASS}
    paths = [*two(tmp_path), *(written(tmp_path, f"{version}.jsonl", built, version, "compile:gfx942")
                               for version in ("0.1.16", "0.1.20.post1"))]  # fmt: skip
    made = page(paths)
    (row,) = [row for row in made.rows if row.feature.name == "causal decode"]
    assert [cell.total for cell in row.cells] == [3, 3, 1, 1]
    assert row.claims[1] == "throughout"
    (repeated,) = [row for row in made.rows if row.feature.name == "invariances"]
    assert [cell.total for cell in repeated.cells] == [1, 1, 0, 0]
    assert "0.1.20.post1, compile:gfx942" in html(made)


def test_a_version_is_compared_with_the_last_before_it_that_ran(tmp_path: Path) -> None:
    absent = dict.fromkeys(OLD, NOT_RUN)
    paths = [
        written(tmp_path, "a.jsonl", NEW, "0.1.15"),
        written(tmp_path, "b.jsonl", absent, "0.1.16"),
        written(tmp_path, "c.jsonl", OLD, "0.1.17"),
    ]
    (answer,) = page(paths).answers
    assert answer.verdict is Verdict.REGRESSED
    assert answer.sentence.startswith("From aiter 0.1.15 to aiter 0.1.17")


def test_a_whole_run_raises_no_banner(tmp_path: Path) -> None:
    made = page(two(tmp_path))
    assert made.warnings == []
    assert 'role="alert"' not in html(made)


def test_systems_that_differ_in_more_than_the_version_are_not_compared(tmp_path: Path) -> None:
    paths = [*two(tmp_path), written(tmp_path, "c.jsonl", OLD, "0.1.16", "gpu:gfx942", device="AMD Instinct MI300X")]
    made = page(paths)
    assert [(made.versions[pair.old].name, made.versions[pair.new].name) for pair in made.pairs] == [
        ("aiter 0.1.16, interpreter:gfx942", "aiter 0.1.20.post1, interpreter:gfx942")
    ]
    assert len(made.answers) == 2


def test_not_run_is_never_shown_as_a_pass(tmp_path: Path) -> None:
    made = page(
        [
            written(tmp_path, "a.jsonl", {PLAIN: PASS, WIDE: NOT_RUN}),
            written(tmp_path, "b.jsonl", {PLAIN: PASS}, "0.1.17"),
        ]
    )
    by_name = {row.feature.name: row for row in made.rows}
    states = {name: [cell.state for cell in by_name[name].cells] for name in ("pages of 16 keys", "bf16")}
    assert states == {"pages of 16 keys": [State.PASS, State.PASS], "bf16": [State.NOT_RUN, State.NOT_RUN]}
    sides = {side.name: side for side in made.sides}
    spots = heat_map(made.versions[0], made.checks, sides["page size"], sides["dtype"]).spots
    assert {sides["page size"].levels[row]: spot.state for (row, _), spot in spots.items()} == {
        "16": State.PASS, "32": State.NOT_RUN}  # fmt: skip


def test_a_heat_map_shows_the_one_corner_that_fails(tmp_path: Path) -> None:
    made = page([written(tmp_path, "a.jsonl", OLD)])
    sides = {side.name: side for side in made.sides}
    down, across = sides["page size"], sides["GQA ratio"]
    spots = heat_map(made.versions[0], made.checks, down, across).spots
    said = {
        (down.levels[row], across.levels[column]): (spot.state, spot.said, spot.error)
        for (row, column), spot in spots.items()
    }
    assert said == {
        ("16", "2"): (State.REFUSED, "1", 0.5),
        ("16", "8"): (State.UNEXPLAINED, "1/1", 1990.0),
        ("32", "8"): (State.PASS, "1", 0.5),
    }


def test_margins_are_those_of_passing_cases_alone(tmp_path: Path) -> None:
    results = {PLAIN: PASS | {"bound": 0.9}, WIDE: PASS | {"bound": 0.1}, DRAFT: WRONG, TWICE: PASS | {"bound": 0.99}}
    ((_, (bound, noise)),) = page([written(tmp_path, "a.jsonl", results)]).margins
    assert (bound.cases, bound.median, bound.largest, bound.check, bound.near) == (2, 0.1, 0.9, PLAIN, 1)
    assert [at for at, count in enumerate(bound.bins) if count] == [2, 22]
    assert noise.limit == 1.25


def test_a_gap_that_closed_is_listed_as_closed_with_the_version_since_which_it_is(tmp_path: Path) -> None:
    paths = [
        written(tmp_path, "a.jsonl", {PLAIN: GAP, WIDE: GAP}, "0.1.15"),
        written(tmp_path, "b.jsonl", {PLAIN: PASS, WIDE: PASS}, "0.1.16"),
        written(tmp_path, "c.jsonl", {PLAIN: PASS, WIDE: NOT_RUN}, "0.1.17"),
    ]
    (note,) = page(paths).notes
    assert (note.note.reason, note.note.issue) == ("The kernel takes none", "docs/findings.md#limits")
    assert note.closed == ("aiter 0.1.16, as far as it ran",)
    assert [dict(counts) for counts in note.counts] == [{"shown": 2}, {"pass": 2}, {"pass": 1, "not run": 1}]


@pytest.mark.parametrize(
    "newest", [{PLAIN: GAP, WIDE: PASS}, {PLAIN: NOT_RUN, WIDE: NOT_RUN}, {PLAIN: WRONG, WIDE: PASS}]
)
def test_a_gap_of_which_anything_is_left_is_not_closed(tmp_path: Path, newest: dict[str, Any]) -> None:
    paths = [
        written(tmp_path, "a.jsonl", {PLAIN: GAP, WIDE: GAP}, "0.1.15"),
        written(tmp_path, "b.jsonl", newest, "0.1.16"),
    ]
    assert not page(paths).notes[0].is_closed


def test_a_gap_that_is_still_declared_and_closed_is_named_with_its_entry(tmp_path: Path) -> None:
    made = page([written(tmp_path, "a.jsonl", {PLAIN: CLOSED})])
    assert made.stale == [("aiter 0.1.16", PLAIN, "a.toml, entry 1")]
    assert made.answers[0].verdict is Verdict.UNEXPLAINED


def test_failures_of_the_newest_version_come_first_and_say_what_the_record_says(tmp_path: Path) -> None:
    made = page(two(tmp_path, {PLAIN: PASS, DRAFT: WRONG, WIDE: WRONG}, {PLAIN: PASS, DRAFT: PASS, WIDE: WRONG}))
    assert [(one.id, one.is_new, [versions for versions, _, _ in one.texts]) for one in made.failures] == [
        (WIDE, True, [(1, 0)]), (DRAFT, False, [(0,)])]  # fmt: skip
    text = made.failures[0].texts[0][1]
    assert text.splitlines() == [
        "MISMATCH  (kvcache)",
        "what   an element exceeds its error bound",
        "key    reads key 31 instead of key 37",
        "worst  error/bound 1990, noise 5014, noise of a row 2.708e+04",
    ]


def test_pairs_hold_what_compare_finds(tmp_path: Path) -> None:
    ((pair),) = page(two(tmp_path)).pairs
    assert (pair.count(Change.FIXED), pair.count(Change.REGRESSED)) == (1, 0)


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_text_of_a_record_stays_text(tmp_path: Path) -> None:
    gap = GAP | {"expected": DECLARED_BY_A_STRANGER}
    results = {DRAFT: WRONG | {"reason": HOSTILE}, SOFTCAP: REFUSED | {"reason": HOSTILE}, PLAIN: gap}
    made = page([written(tmp_path, "a.jsonl", results, title=HOSTILE, device=HOSTILE, commit=HOSTILE)])
    assert "<" not in table(made)
    text = html(made)
    parsed = Elements()
    parsed.feed(text)
    tags = [tag for tag, _ in parsed.found]
    assert tags.count("script") == 2
    assert "img" not in tags
    addresses = [attributes.get("href") or "" for tag, attributes in parsed.found if tag == "a"]
    assert all(address.startswith("#") for address in addresses)


DECLARED_BY_A_STRANGER = {
    "status": "ERROR",
    "reason": "none",
    "issue": "javascript:alert(3)",
    "entry": "a.toml, entry 1",
}


def test_an_issue_is_a_link_where_it_can_be_read(tmp_path: Path) -> None:
    there = {"status": "ERROR", "reason": "none", "issue": "https://example.org/7", "entry": "a.toml, entry 1"}
    made = page([written(tmp_path, "a.jsonl", {PLAIN: GAP, WIDE: GAP | {"expected": there}})])
    assert 'href="https://example.org/7"' in html(made)
    assert 'href="https://example.org/tree/docs/findings.md#limits"' in html(made, "https://example.org/tree/")


def test_a_page_asks_nothing_of_a_network(tmp_path: Path) -> None:
    parsed = Elements()
    parsed.feed(html(page(two(tmp_path))))
    assert {tag for tag, attributes in parsed.found if "src" in attributes} == set()
    assert "link" not in {tag for tag, _ in parsed.found}
    (policy,) = [attributes["content"] for tag, attributes in parsed.found if attributes.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_headers_of_tables_have_a_scope(tmp_path: Path) -> None:
    parsed = Elements()
    parsed.feed(html(page(two(tmp_path))))
    headers = [attributes for tag, attributes in parsed.found if tag == "th"]
    assert headers
    assert all(attributes.get("scope") for attributes in headers)


def test_a_case_is_told_with_what_its_sides_only_name(tmp_path: Path) -> None:
    windowed = PLAIN.replace("-packed", "-w32:inf-packed")
    data = json.loads(table(page([written(tmp_path, "a.jsonl", {PLAIN: PASS, windowed: PASS, TWICE: PASS})])))
    assert data["more"] == {str(data["checks"].index(windowed)): [0]}
    assert data["moreOf"] == [["keys in the window", "32 to the left, all to the right"]]
    assert data["relations"]["repeated"]


def test_the_table_has_each_result_once_with_its_figures(tmp_path: Path) -> None:
    made = page(two(tmp_path))
    data = json.loads(table(made))
    at = data["checks"].index(DRAFT)
    old, new = data["versions"]
    state, word, note, path, _ = data["outcomes"][old["outcome"][at]]
    assert (data["states"][state]["name"], word, note, path) == ("unexplained", "MISMATCH", 0, "kvcache")
    assert [some[at] for some in old["figures"]] == [1990, 5010, 27000, 0]
    assert data["states"][data["outcomes"][new["outcome"][at]][0]]["name"] == "passed"
    options = "--backend aiter --target interpreter:gfx942 --aiter aiter.git@v0.1.20.post1"
    assert new["run"] == f"python -m conformance run {options} --case"
    assert data["pairs"] == [{"old": 0, "new": 1, "verdict": "NO REGRESSION: of 5 checks in common: 1 fixed.",
                              "changes": {"FIXED": [at]}, "counted": {}}]  # fmt: skip


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "planned", "code"), [(NEW, [], 0), (NEW | {PLAIN: WRONG}, [], 1), (OLD, [], 1), (NEW, [SHORT], 3)]
)
def test_the_exit_code(
    tmp_path: Path, command: Callable[..., Done], new: dict[str, Any], planned: list[str], code: int
) -> None:
    paths = [written(tmp_path, "a.jsonl", OLD, "0.1.16"), written(tmp_path, "b.jsonl", new, "0.1.17", planned=planned)]
    done = command("report", *paths, "-o", tmp_path / "report.html")
    assert done.code == code, done.printed
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, command: Callable[..., Done]) -> None:
    done = command("report", written(tmp_path, "a.jsonl", OLD), "-o", tmp_path / "none" / "report.html")
    assert done.code == 2
    assert done.err.startswith(f"conformance: cannot write the page to {tmp_path / 'none' / 'report.html'}: ")


def test_a_page_is_written_over_and_a_record_is_not(tmp_path: Path, command: Callable[..., Done]) -> None:
    first, other = two(tmp_path)
    assert command("report", first, "-o", tmp_path / "report.html").code == 0
    assert command("report", first, "-o", tmp_path / "report.html").code == 0
    before = other.read_bytes()
    done = command("report", first, "-o", other)
    assert (done.code, done.err) == (
        2, f"conformance: {other} exists, is no page, and is kept: write the page somewhere else\n")  # fmt: skip
    assert other.read_bytes() == before


def test_what_is_no_record_is_one_sentence(tmp_path: Path, command: Callable[..., Done]) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    done = command("report", tmp_path / "a.jsonl", "-o", tmp_path / "report.html")
    assert done.code == 2
    assert "is not a record" in done.err
    assert not (tmp_path / "report.html").exists()


def test_without_jinja_it_says_what_to_install(
    tmp_path: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = command("report", written(tmp_path, "a.jsonl", OLD), "-o", tmp_path / "report.html")
    assert (done.code, done.err) == (2, "conformance: report needs Jinja: python -m pip install jinja2\n")


def test_a_wheel_holds_what_a_page_is_made_of() -> None:
    package = Path(conformance.__file__).parent
    globs = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "conformance"
    ]
    packed = {path for glob in globs for path in package.glob(glob)}
    assert {*(package / "report" / "templates").iterdir()} <= packed
