"""Versions by features: what a cell says of a version, and spans of versions in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.check import Check
from conformance.matrix.cells import State
from conformance.plan import Plan
from conformance.qualify.shown import as_markdown
from conformance.qualify.spans import Way, claim, seen
from conformance.qualify.table import Row, Table, of_paths, word
from conformance.record import BadRecord, Writer, digest

PLAIN = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"
SOFTCAP = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-softcap30-packed-random"
DRAFT = "decode-noncausal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"

PASS = {"status": "PASS", "path": "unified", "bound": 0.5}
MISMATCH = {"status": "MISMATCH", "path": "unified", "bound": 9.0}
REFUSED = {"status": "UNSUPPORTED", "reason": "no softcap"}
GAP = {"status": "ERROR", "reason": "no", "expected": {"status": "ERROR", "reason": "r", "issue": "i", "entry": "e"}}
ABSENT = {"status": "NOT RUN", "reason": "AITER 0.1.9 does not import under Triton 3.9: aiter.ops.triton.x: no cluster"}

Record = Callable[..., Path]

STATES = {"w": Way.WORKS, "b": Way.BROKEN, "r": Way.REFUSED, "?": Way.UNKNOWN}


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ("w", ""),
        ("?b?", ""),
        ("www", "throughout"),
        ("w?w", "throughout (v1 not run)"),
        ("?ww?", "throughout"),
        ("bb", "broken throughout"),
        ("rrr", "refused throughout"),
        ("bbw", "since v2"),
        ("rww", "since v1"),
        ("b?w", "since v2 (v1 not run)"),
        ("?bw", "since v2"),
        ("wbbw", "broken in v1-v2"),
        ("wbw", "broken in v1"),
        ("wb?bw", "broken in v1-v3 (v2 not run)"),
        ("w?bw", "broken in v2 (v1 not run)"),
        ("wwb", "broken since v2"),
        ("wwr?", "refused since v2"),
        ("bwbw", "since v1, broken in v2"),
        ("rbw", "refused up to v0, broken in v1, since v2"),
        ("br", "broken up to v0, refused since v1"),
        ("rbbwwbb", "refused up to v0, broken in v1-v2, since v3, broken since v5"),
    ],
)
def test_spans_in_words(ways: str, said: str) -> None:
    assert claim([f"v{at}" for at in range(len(ways))], [STATES[way] for way in ways]) == said


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ("www", ""),
        ("b", "v0"),
        ("bb", "throughout"),
        ("?bb", "throughout"),
        ("bbw", "v0-v1"),
        ("bw?", "v0"),
        ("wb?", "since v1"),
        ("wb", "since v1"),
        ("wbbw", "v1-v2"),
        ("bwb", "v0, since v2"),
    ],
)
def test_where_a_defect_was_seen(ways: str, said: str) -> None:
    assert seen([f"v{at}" for at in range(len(ways))], [STATES[way] for way in ways]) == said


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Writes a record of these results, by check, on one AITER, target, torch and Triton."""

    def record(
        version: str, results: Mapping[str, dict[str, Any]], target: str = "interpreter:gfx942",
        triton: str = "3.7.1", commit: str = "", planned: tuple[str, ...] = (), **digests: str,
    ) -> Path:  # fmt: skip
        path = tmp_path / f"{version}-{target}-{triton}{commit}.jsonl"
        plan = Plan("some", [Check.parse(check) for check in (*results, *planned)])
        aiter = {"version": version, "commit": commit or f"c{version}", "origin": "repository"}
        writer = Writer(path)
        environment = {"target": target, "torch": "2.13.0", "triton": triton}
        run = {"plan": plan.recorded(), "backend": "aiter", "options": [], "aiter": aiter}
        writer.header(len(plan.checks), run, environment)
        for check, result in results.items():
            writer.case(case=check, digest=digests.get("digest", digest(Check.parse(check))), **result)
        if not planned:
            writer.footer(Counter(result["status"] for result in results.values()), 1.0)
        writer.close()
        return path

    return record


def row(table: Table, name: str) -> Row:
    (found,) = [row for row in table.rows if row.name == name]
    return found


def said(row: Row) -> list[str]:
    return [f"{cell.counts[State.PASS]}/{cell.ran}/{cell.total} {word(cell)}" for cell in row.cells]


def test_a_feature_over_versions_in_their_order(record: Record) -> None:
    results = {
        "0.1.20.post1": {PLAIN: PASS, SOFTCAP: PASS, DRAFT: PASS},
        "0.1.9": {PLAIN: PASS, SOFTCAP: REFUSED, DRAFT: MISMATCH},
        "0.1.16": {PLAIN: MISMATCH, SOFTCAP: GAP, DRAFT: PASS},
    }
    (table,) = of_paths([record(version, some) for version, some in results.items()])
    assert [version.name for version in table.versions] == ["0.1.9", "0.1.16", "0.1.20.post1"]
    assert [version.fails for version in table.versions] == [True, True, False]
    assert table.setting.described == "aiter, interpreter:gfx942, torch 2.13.0, Triton 3.7.1"
    assert said(row(table, "causal decode")) == ["1/1/2 UNSUPPORTED", "0/2/2 MISMATCH", "2/2/2 PASS"]
    assert row(table, "causal decode").claim == "broken in 0.1.16"
    assert said(row(table, "softcap")) == ["0/0/1 UNSUPPORTED", "0/1/1 ERROR", "1/1/1 PASS"]
    assert row(table, "softcap").claim == "refused up to 0.1.9, broken in 0.1.16, since 0.1.20.post1"
    assert row(table, "non-causal decode").claim == "since 0.1.16"
    assert "sinks" not in [row.name for row in table.rows]


def test_a_version_that_does_not_import_has_the_cause_and_breaks_no_claim(record: Record) -> None:
    (table,) = of_paths([
        record("0.1.9", {PLAIN: ABSENT, DRAFT: ABSENT}),
        record("0.1.15", {PLAIN: PASS, DRAFT: MISMATCH}),
        record("0.1.16", {PLAIN: ABSENT, DRAFT: ABSENT}),
        record("0.1.18", {PLAIN: PASS, DRAFT: PASS}),
    ])  # fmt: skip
    assert [version.cause for version in table.versions] == [ABSENT["reason"], "", ABSENT["reason"], ""]
    assert not table.versions[0].anything_ran
    assert said(row(table, "causal decode"))[0] == "0/0/1 NOT RUN"
    assert row(table, "causal decode").claim == "throughout (0.1.16 not run)"
    assert row(table, "non-causal decode").claim == "since 0.1.18 (0.1.16 not run)"


def test_what_is_left_of_a_cut_run_is_not_run(record: Record) -> None:
    asked = {PLAIN, DRAFT}
    cut = record("0.1.15", {PLAIN: PASS}, planned=(DRAFT,))
    (table,) = of_paths([cut, record("0.1.16", {PLAIN: PASS, DRAFT: PASS})], lambda _: asked)
    assert [version.complete for version in table.versions] == [False, True]
    assert said(row(table, "non-causal decode")) == ["0/0/1 NOT RUN", "1/1/1 PASS"]
    assert row(table, "non-causal decode").claim == ""


def test_a_cut_run_has_no_cause_and_is_whole_for_whoever_asked_for_no_more(record: Record) -> None:
    cut = record("0.1.15", {PLAIN: PASS}, planned=(DRAFT, SOFTCAP))
    for asked, complete in (({PLAIN, DRAFT, SOFTCAP}, False), ({PLAIN}, True)):
        (version,) = of_paths([cut], lambda _, asked=asked: asked)[0].versions
        assert (version.cause, version.complete) == ("", complete)


def test_only_what_was_asked_for_is_shown(record: Record) -> None:
    path = record("0.1.15", {PLAIN: PASS, DRAFT: MISMATCH})
    (table,) = of_paths([path], lambda _: {PLAIN})
    assert [row.name for row in table.rows if "decode" in row.name] == ["causal decode"]
    assert not table.versions[0].fails


def test_another_triton_is_another_table_and_what_was_built_is_a_row(record: Record) -> None:
    tables = of_paths([
        record("0.1.15", {PLAIN: PASS}),
        record("0.1.16", {PLAIN: PASS}),
        record("0.1.16", {PLAIN: MISMATCH}, triton="3.6.0"),
        record("0.1.16", {PLAIN: PASS, DRAFT: {"status": "RESOURCE"}}, target="compile:gfx950"),
        record("0.1.18", {PLAIN: PASS}, target="compile:gfx942", triton="3.8.0"),
    ])  # fmt: skip
    first, second, third = tables
    assert [table.setting.triton for table in tables] == ["3.7.1", "3.6.0", "3.8.0"]
    assert said(row(first, "builds for gfx950")) == ["0/0/2 NOT RUN", "1/2/2 RESOURCE"]
    assert row(first, "causal decode").claim == "throughout"
    assert [one.name for one in second.rows if one.name.startswith("builds")] == []
    assert [(one.name, said(one)) for one in third.rows] == [("builds for gfx942", ["1/1/1 PASS"])]
    assert third.setting.target == ""


def test_two_commits_of_one_version_are_told_apart(record: Record) -> None:
    one = record("0.1.16.dev3+gaaaaaaaaa", {PLAIN: PASS}, commit="aaaaaaaaaa")
    other = record("0.1.16.dev3+gbbbbbbbbb", {PLAIN: PASS}, commit="bbbbbbbbbb")
    (table,) = of_paths([one, other])
    assert [version.name for version in table.versions] == ["0.1.16.dev3 aaaaaaa", "0.1.16.dev3 bbbbbbb"]


def test_results_of_another_oracle_do_not_stand_beside(record: Record) -> None:
    with pytest.raises(BadRecord, match="cannot stand side by side: the inputs or the oracle"):
        of_paths([record("0.1.15", {PLAIN: PASS}), record("0.1.16", {PLAIN: PASS}, digest="0")])


def test_each_finding_and_each_gap_says_in_which_versions_it_was_seen(record: Record) -> None:
    """A known one, in two versions; a declared gap, in the first; what nothing explains is neither."""
    windowless = "prefill-causal-bf16-b2-q40+23-h4:2-d64-p16-kv40+23-w0:0-t1-packed-random"
    known = MISMATCH | {"path": "prefill.mha"}
    (table,) = of_paths(
        [
            record("0.1.14", {PLAIN: ABSENT, windowless: ABSENT, DRAFT: ABSENT}),
            record("0.1.15", {PLAIN: MISMATCH, windowless: known, DRAFT: GAP}),
            record("0.1.16", {PLAIN: MISMATCH, windowless: known, DRAFT: PASS}),
        ]
    )
    finding, gap = table.defects
    assert (finding.check, finding.counts, finding.seen, finding.is_gap) == (
        windowless,
        (None, 1, 1),
        "throughout",
        False,
    )
    assert "A window of 0 keys to the left" in finding.reason
    assert (gap.check, gap.counts, gap.seen, gap.is_gap) == (DRAFT, (None, 1, 0), "0.1.15", True)
    shown = [line for line in as_markdown([table]) if windowless in line or DRAFT in line]
    assert [line.split(" | ")[0] for line in shown] == [
        "| throughout (unknown in 0.1.14)",
        "| 0.1.15 (unknown in 0.1.14)",
    ]


def test_what_was_not_claimed_and_yet_right_did_not_have_the_defect(record: Record) -> None:
    idle = "decode-causal-bf16-b2-q0+1-h4:2-d64-p16-kv50+70-packed-random"
    refused = REFUSED | {"reason": "no idle sequence; refused by the kernel too: no"}
    (table,) = of_paths(
        [
            record("0.1.14", {idle: refused}),
            record("0.1.15", {idle: REFUSED | {"reason": "no idle sequence; not claimed, and yet right"}}),
            record("0.1.16", {idle: MISMATCH}),
            record("0.1.17", {idle: MISMATCH}),
        ]
    )
    (finding,) = table.defects
    assert (finding.counts, finding.seen) == ((None, 0, 1, 1), "since 0.1.16")


def test_a_finding_is_shown_by_a_case_rather_than_by_a_relation(record: Record) -> None:
    """Which is said in fewer words here, and takes two calls."""
    plain = "decode-causal-bf16-b2-q0+1-h4:2-d64-p16-kv50+70-pages.ascending-contiguous-random"
    related = "repeated/decode-causal-bf16-b2-q0+1-h4:2-d64-p16-kv50+70-packed-random"
    (table,) = of_paths([record("0.1.16", {related: MISMATCH, plain: MISMATCH})])
    (finding,) = table.defects
    assert (finding.check, finding.counts) == (plain, (2,))
