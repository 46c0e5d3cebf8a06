"""The matrix: records in, cells out, and no failure that looks explained and is not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conformance import expectations
from conformance.check import Check, of_tier
from conformance.expectations import BadExpectations
from conformance.expectations import findings as found
from conformance.expectations.findings import Finding
from conformance.matrix import FORMATS, Cell, Matrix, State, matrix, of_records
from conformance.matrix.paths import NONE, SEVERAL
from conformance.matrix.shown import SIGNS
from conformance.plan import Plan
from conformance.record import Writer, digest
from conformance.shard import Shard
from tests.harness.conftest import Done

PLAIN = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"
SOFTCAP = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+37-softcap30-packed-random"
SHORT = "decode-causal-bf16-b2-q4-h4:2-d64-p16-kv100+3-packed-random"
DRAFT = "decode-noncausal-bf16-b2-q4-h4:2-d64-p16-kv100+37-packed-random"
RAGGED = "decode-noncausal-bf16-b2-q4+3-h4:2-d64-p16-kv100+37-packed-random"

PASS = {"status": "PASS", "path": "unified", "bound": 0.5}
NONFINITE = {"status": "NONFINITE", "path": "unified", "reason": "3 elements are not finite"}
REFUSED = {"status": "UNSUPPORTED", "reason": "no softcap (ops/attention.py:12 in f)"}
DECLARED = {"status": "ERROR", "reason": "The kernel takes none", "issue": "docs/findings.md#limits", "entry": "a.toml"}
GAP = {"status": "ERROR", "reason": "AssertionError: no", "expected": DECLARED}
NOT_RUN = {"status": "NOT RUN", "reason": "no GPU"}

Results = Mapping[str, dict[str, Any]]
RecordOf = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> RecordOf:
    """Writes a record of these results, by check; `planned` are checks without one."""

    def record(
        name: str, results: Results, version: str = "0.1.16", target: str = "interpreter:gfx942", *,
        shard: str | None = None, planned: Sequence[str] = (), cut: bool = False, backend: str = "aiter",
        commit: str = "abc", device: str = "", digests: Mapping[str, str] = {}, title: str = "9 chosen cases",
        **packages: str,
    ) -> Path:  # fmt: skip
        checks = [Check.parse(check) for check in (*results, *planned)]
        plan = Plan(title, checks, Shard.parse(shard) if shard else None)
        aiter = {"aiter": {"version": version, "commit": commit, "origin": "repository"}} if version else {}
        environment = {"target": target, **packages} | ({"device": device} if device else {})
        writer = Writer(tmp_path / name)
        writer.header(
            len(plan.checks), {"plan": plan.recorded(), "backend": backend, "options": []} | aiter, environment
        )
        mine = [check for check in plan.checks if check.id in results]
        for check in mine:
            relation = {"relation": check.relation.name} if check.relation else {}
            key = digests.get(check.id, digest(check))
            writer.case(case=check.case.id, **relation, digest=key, **results[check.id])
        if not cut:
            writer.footer(Counter(results[check.id]["status"] for check in mine), 1.0)
        writer.close()
        return tmp_path / name

    return record


def finding(**changes: Any) -> Finding:
    entry = {"match": "*", "status": "NONFINITE", "since": "0", "until": "open", "arch": "any",
             "reason": "Rows without a key are NaN", "issue": "docs/findings.md#a-row-without-a-key"}  # fmt: skip
    return found._finding(entry | changes, "findings.toml, entry 1")


def of(*paths: Path, findings: Sequence[Finding] = ()) -> Matrix:
    return matrix(of_records(paths), findings)


def cell(some: Matrix, path: str, feature: str, column: int = 0) -> Cell:
    (row,) = [row for row in some.rows if (row.path, row.feature.name) == (path, feature)]
    return row.cells[column]


def shown(some: Matrix, path: str, feature: str) -> list[str]:
    """The cells of a row as Markdown has them."""
    (line,) = [line for line in FORMATS["markdown"](some) if line.startswith(f"| `{path}` | {feature} |")]
    return [word.strip() for word in line.strip("|").split("|")[2:]]


# -- what a cell says --------------------------------------------------------------------------------------------------


STATES: dict[str, tuple[Results, str]] = {
    "all passed": ({PLAIN: PASS, SHORT: PASS}, "+ 2/2/2"),
    "refused": ({PLAIN: REFUSED}, "- 0/0/1 refused 1 [1]"),
    "refused in part": ({PLAIN: PASS, SOFTCAP: REFUSED}, "- 1/1/2 refused 1 [1]"),
    "not run": ({PLAIN: NOT_RUN}, "? 0/0/1 not run 1"),
    "expected": ({PLAIN: PASS, SHORT: GAP}, "~ 1/2/2 ERROR expected 1 [1]"),
    "a finding": ({PLAIN: PASS, SHORT: NONFINITE}, "x 1/2/2 NONFINITE known 1 [1]"),
    "unexplained": ({PLAIN: NONFINITE, SHORT: PASS}, "!! 1/2/2 NONFINITE unexplained: 1"),
    "of each": (
        {PLAIN: PASS | {"status": "MISMATCH"}, SHORT: NONFINITE, SOFTCAP: GAP, f"repeated/{PLAIN}": REFUSED,
         f"pages.renamed/{PLAIN}": NOT_RUN, f"poison.pages/{PLAIN}": PASS},
        "!! 1/4/6 MISMATCH unexplained: 1, known 1 [1], expected 1 [2], not run 1, refused 1 [3]",
    ),
    "a gap that closed": (
        {PLAIN: PASS | {"expected": DECLARED}, SHORT: PASS}, "!! 1/2/2 PASS, not ERROR unexplained: 1",
    ),
    "not as expected": ({PLAIN: NONFINITE | {"expected": DECLARED}}, "!! 0/1/1 NONFINITE, not ERROR unexplained: 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_cell_counts_what_came_of_its_checks(record: RecordOf, name: str) -> None:
    results, says = STATES[name]
    some = of(record("one", results), findings=[finding(features=["short contexts"])])
    (path,) = {row.path for row in some.rows}
    assert shown(some, path, "causal decode") == [says]


def test_every_state_has_a_sign_of_its_own() -> None:
    assert set(SIGNS) == set(State)
    assert len(set(SIGNS.values())) == len(State)


def test_a_check_that_another_column_has_is_not_run_in_this_one(record: RecordOf) -> None:
    some = of(record("old", {PLAIN: PASS}), record("new", {PLAIN: PASS, SOFTCAP: PASS}, "0.1.18"))
    assert shown(some, "unified", "causal decode") == ["? 1/1/2 not run 1", "+ 2/2/2"]
    assert shown(some, "unified", "softcap") == ["? 0/0/1 not run 1", "+ 1/1/1"]


def test_a_row_that_goes_another_way_in_a_column_is_empty_there(record: RecordOf) -> None:
    some = of(record("old", {PLAIN: PASS}), record("new", {PLAIN: PASS | {"path": "paged"}}, "0.1.18"))
    assert shown(some, "unified", "causal decode") == ["+ 1/1/1", ""]
    assert shown(some, "paged", "causal decode") == ["", "+ 1/1/1"]


def test_an_lse_that_one_column_judged_is_asked_of_all(record: RecordOf) -> None:
    some = of(record("old", {PLAIN: NONFINITE}), record("new", {PLAIN: PASS | {"lse": 0.2}}, "0.1.18"))
    assert shown(some, "unified", "lse") == ["!! 0/1/1 NONFINITE unexplained: 1", "+ 1/1/1"]


def test_refusals_that_differ_in_numbers_alone_are_one_note(record: RecordOf) -> None:
    results = {
        PLAIN: PASS,
        SOFTCAP: REFUSED | {"reason": "no window (-1, 16)"},
        SHORT: REFUSED | {"reason": "no window (3, -1)"},
        DRAFT: REFUSED | {"reason": "no sinks"},
    }
    some = of(record("one", results))
    notes = {note.reason: some.example(note) for row in some.rows for one in row.cells for note in one.notes}
    assert notes == {"no window (-1, 16)": SOFTCAP, "no sinks": DRAFT}, "shown word for word by its check"


# -- where a check stands ----------------------------------------------------------------------------------------------


def test_what_gave_no_answer_stands_where_batches_of_its_kind_went(record: RecordOf) -> None:
    results = {
        DRAFT: PASS | {"path": "kvcache"}, RAGGED: PASS | {"path": "kvcache.padded"}, PLAIN: PASS,
        DRAFT.replace("100", "99"): GAP, RAGGED.replace("100", "99"): REFUSED, SOFTCAP: NOT_RUN,
    }  # fmt: skip
    some = of(record("one", results))
    assert cell(some, "kvcache", "non-causal decode").counts == {State.PASS: 1, State.GAP: 1}
    assert cell(some, "kvcache.padded", "non-causal decode").counts == {State.PASS: 1, State.REFUSED: 1}
    assert cell(some, "unified", "causal decode").counts == {State.PASS: 1, State.NOT_RUN: 1}


def test_no_path_is_guessed_where_none_or_several_are_possible(record: RecordOf) -> None:
    split = PLAIN.replace("h4", "h8")
    results = {PLAIN: PASS, split: PASS | {"path": "paged"}, SOFTCAP: REFUSED, DRAFT: REFUSED}
    some = of(record("one", results))
    assert {row.path for row in some.rows} == {"unified", "paged", NONE}
    assert some.rows[-1].path == NONE, "after the others"
    assert cell(some, NONE, "softcap").total == 1
    assert cell(some, NONE, "non-causal decode").total == 1


def test_a_relation_over_two_paths_stands_under_its_first(record: RecordOf) -> None:
    single = "single.query/decode-noncausal-bf16-b2-q1-h4:2-d64-p16-kv100+37-packed-random"
    some = of(record("one", {single: PASS | {"path": "kvcache and unified"}}))
    assert {row.path for row in some.rows} == {"kvcache"}
    failing = of(
        record("two", {single: NONFINITE | {"path": "kvcache and unified"}}), findings=[finding(path="unified")]
    )
    assert cell(failing, "kvcache", "agreement").state is State.FINDING, "one of the two may be the cause"


def test_a_batch_whose_parts_go_several_ways_is_a_mixed_batch_in_each(record: RecordOf) -> None:
    """A window that it has says nothing of a part that could go without: it has one row of each path, and its own."""
    mixed = "mixed-causal-bf16-b2-q8+9-h4:2-d64-p16-kv100+37-w9:inf-t8-packed-random"
    results = {PLAIN: PASS, mixed: NONFINITE | {"path": "unified+extend.window.mha"}}
    some = of(record("one", results), findings=[finding(path="extend.*")])
    assert cell(some, "unified", "mixed batch").counts == {State.FINDING: 1}
    assert cell(some, "extend.window.mha", "mixed batch").counts == {State.FINDING: 1}
    assert {row.feature.name for row in some.rows if row.path == "extend.window.mha"} == {"mixed batch"}
    assert cell(some, "unified", "causal decode").counts == {State.PASS: 1}
    assert cell(some, SEVERAL, "causal decode").counts == {State.FINDING: 1}
    assert cell(some, SEVERAL, "window left").counts == {State.FINDING: 1}


# -- findings ----------------------------------------------------------------------------------------------------------

EXPLAINS: dict[str, tuple[dict[str, Any], bool]] = {
    "all": ({}, True),
    "a feature that it has": ({"features": ["short contexts", "bf16"]}, True),
    "a feature that it has not": ({"features": ["short contexts", "fp16"]}, False),
    "its path": ({"path": ["kvcache", "uni*"]}, True),
    "another path": ({"path": "kvcache*"}, False),
    "another id": ({"match": "*-noncausal-*"}, False),
    "another status": ({"status": "MISMATCH"}, False),
    "its version": ({"since": "0.1.16", "until": "0.1.17"}, True),
    "later": ({"since": "0.1.16.post1"}, False),
    "earlier": ({"until": "0.1.16"}, False),
    "its arch": ({"arch": "gfx942"}, True),
    "its target": ({"arch": "interpreter:*"}, True),
    "its backend": ({"backend": ["vllm", "ait*"]}, True),
    "another backend": ({"backend": "vllm"}, False),
    "another arch": ({"arch": ["gfx950", "gpu:gfx942"]}, False),
}


@pytest.mark.parametrize("name", EXPLAINS)
def test_a_finding_explains_what_it_says_and_nothing_else(record: RecordOf, name: str) -> None:
    changes, explains = EXPLAINS[name]
    some = of(record("one", {SHORT: NONFINITE}), findings=[finding(**changes)])
    assert [one.check for _, one in some.unexplained] == ([] if explains else [SHORT])


FLOAT8 = "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv150+33-cache.e4m3fn-q.e4m3fn-packed-needle"


@pytest.mark.parametrize(
    ("result", "where", "state"),
    [
        ({"status": "ERROR", "reason": "no float8"}, {"target": "gpu:sm_90"}, State.GAP),
        ({"status": "MISMATCH", "reason": "wrong"}, {"target": "gpu:sm_90"}, State.UNEXPLAINED),
        ({"status": "ERROR", "reason": "no float8"}, {"target": "gpu:gfx942"}, State.UNEXPLAINED),
        ({"status": "ERROR", "reason": "no float8"}, {"target": "gpu:sm_90", "backend": "m:f"}, State.UNEXPLAINED),
    ],
    ids=["as declared", "another way to fail", "another arch", "another backend"],
)
def test_a_gap_that_was_declared_since_the_run_explains_it(
    record: RecordOf, result: dict[str, str], where: dict[str, str], state: State
) -> None:
    some = of(record("one", {FLOAT8: result}, "0.1.20", **where))
    assert some.came[0][FLOAT8].state is state


def test_a_finding_holds_for_each_backend_and_for_one_without_aiter(record: RecordOf) -> None:
    for name, version in (("vllm", "0.1.16"), ("my.module:attend", "")):
        path = record(f"of {name}", {SHORT: NONFINITE}, version, backend=name)
        assert not of(path, findings=[finding()]).unexplained
        assert bool(of(path, findings=[finding(since="0.1.15")]).unexplained) is not version


@pytest.mark.parametrize(("version", "explained"), [
    ("0.1.17.dev3+gabc", True), ("0.1.16", False), ("0.1.18.dev1", True), ("unknown", False), ("0.1.18", False),
])  # fmt: skip
def test_development_versions_lie_before_the_release_that_they_lead_to(
    record: RecordOf, version: str, explained: bool
) -> None:
    entry = finding(since="0.1.16.1", until="0.1.18")
    some = of(record("one", {SHORT: NONFINITE}, version), findings=[entry])
    assert bool(some.unexplained) is not explained


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"features": ["short context"]}, "no feature is called 'short context'"),
    ({"features": [1]}, "features must be a text"),
    ({"path": ""}, "path is empty"),
    ({"backend": []}, "backend is empty"),
    ({"paths": "x"}, "no field is called 'paths'"),
    ({"status": "PASS"}, "status 'PASS' cannot be expected"),
])  # fmt: skip
def test_an_entry_that_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        finding(**changes)


def test_a_bad_entry_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("[[finding]]\nmatch = '*'\nstatus = 'ERROR'")
    with pytest.raises(BadExpectations, match=r"^mine, entry 1: lacks since, until, arch, reason, issue$"):
        found.entries(tmp_path / "mine", "mine", "finding", found._finding)


def test_committed_findings_name_checks_of_some_tier_and_places_that_are_there() -> None:
    committed = found.committed()
    expectations.refuse_idle([entry.failure for entry in committed], [])
    headings = re.findall(r"^#+ (.*)", (Path(__file__).parents[2] / "docs/findings.md").read_text(), re.MULTILINE)
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
    }  # as GitHub makes them
    for entry in committed:
        file, _, anchor = entry.failure.issue.partition("#")
        assert file == "docs/findings.md"
        assert anchor in anchors, entry.failure.place


# -- joining records ---------------------------------------------------------------------------------------------------


def test_shards_and_tiers_of_a_system_are_one_column(record: RecordOf) -> None:
    smoke = {PLAIN.replace("100", str(keys)): PASS for keys in range(90, 100)}
    more = {DRAFT: PASS | {"path": "kvcache"}}
    paths = [record(f"{n}", smoke, shard=f"{n}/2") for n in (1, 2)] + [record("core", smoke | more, title="more")]
    (column,) = of_records(paths)
    assert column.complete
    assert set(column.results) == {*smoke, *more}
    (half,) = of_records(paths[1:2])
    assert not half.complete, "a shard is missing"


def test_what_a_cut_record_lacks_another_may_have(record: RecordOf) -> None:
    cut = record("cut", {PLAIN: PASS}, planned=[SHORT], cut=True)
    assert not of_records([cut])[0].complete
    (column,) = of_records([cut, record("again", {PLAIN: PASS, SHORT: PASS})])
    assert column.complete


def test_what_a_cut_run_of_a_tier_lacks_is_not_run(command: Callable[..., Done], tmp_path: Path) -> None:
    """As if it had passed, a row of a check that is missing would be one of those that are there."""
    plan = Plan("tier smoke", [check for check in of_tier("smoke") if check.runs_on("interpreter")])
    writer = Writer(tmp_path / "cut")
    header = {"plan": plan.recorded(), "backend": "aiter", "options": []}
    writer.header(len(plan.checks), header, {"target": "interpreter:gfx942"})
    for check in plan.checks[:9]:
        writer.case(case=check.case.id, digest=digest(check), **PASS)
    writer.close()
    (column,) = of_records([tmp_path / "cut"])
    assert not column.complete
    lacking = {name for name, result in column.results.items() if result["status"] == "NOT RUN"}
    assert lacking == {check.id for check in plan.checks[9:]}
    done = command("matrix", tmp_path / "cut")
    assert done.code == 3
    assert re.search(r"^  softcap +\? 0/0/\d+ not run \d+$", done.out, re.MULTILINE)


def test_a_record_that_names_no_plan_is_as_complete_as_its_footer_says(record: RecordOf) -> None:
    for name, cut in (("whole", False), ("cut", True)):
        path = record(name, {PLAIN: PASS}, cut=cut)
        header, *lines = path.read_text().splitlines()
        without = json.loads(header)
        without["run"]["plan"] = None
        path.write_text("\n".join([json.dumps(without), *lines]) + "\n")
        assert of_records([path])[0].complete is not cut


def test_a_result_takes_the_place_of_none(record: RecordOf) -> None:
    for order in (1, -1):
        paths = [record(f"none{order}", {PLAIN: NOT_RUN}), record(f"some{order}", {PLAIN: PASS})]
        assert of_records(paths[::order])[0].results[PLAIN]["status"] == "PASS"


@pytest.mark.parametrize("differs", [
    {"version": "0.1.17"}, {"commit": "def"}, {"target": "gpu:gfx942"}, {"backend": "vllm"}, {"device": "MI300X"},
])  # fmt: skip
def test_each_system_has_its_own_column_and_a_heading_that_tells(record: RecordOf, differs: dict[str, str]) -> None:
    paths = [record("one", {PLAIN: PASS}), record("two", {PLAIN: NONFINITE}, **differs)]
    some = of(*paths)
    assert [cell(some, "unified", "causal decode", at).state for at in (0, 1)] == [State.PASS, State.UNEXPLAINED]
    heads = next(iter(FORMATS["markdown"](some))).strip("| ").split(" | ")
    assert len(heads) == 4
    assert heads[2] != heads[3]


def test_a_backend_that_is_a_version_of_a_package_says_so(record: RecordOf) -> None:
    one = record("one", {PLAIN: PASS}, "0.1.21.dev46+ge4048607a5", backend="vllm", vllm="0.33.0", torch="2.13")
    two = record("two", {PLAIN: PASS}, "", backend="torch", torch="2.13")
    assert [column.system.name for column in of_records([one, two])] == [
        "vllm 0.33.0 on aiter 0.1.21.dev46",
        "torch 2.13",
    ]


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_unexplained_and_ends_with_1(record: RecordOf, command: Callable[..., Done]) -> None:
    done = command("matrix", record("one", {PLAIN: NONFINITE, SHORT: NONFINITE, SOFTCAP: REFUSED}))
    assert done.code == 1, done.printed
    assert f"!! {PLAIN}\n   aiter 0.1.16 (interpreter:gfx942): NONFINITE, 3 elements are not finite\n" in done.out
    assert f"!! {SHORT}" not in done.out, "which a committed finding explains"
    assert re.search(r"UNEXPLAINED: \d+ of \d+ cells, by 1 checks that fail\.$", done.out.strip())
    assert f"refused: no softcap\n    {SOFTCAP}" in done.out, "without the place in AITER, which moves"


def test_the_command_ends_with_0_where_everything_is_explained(record: RecordOf, command: Callable[..., Done]) -> None:
    done = command("matrix", record("one", {PLAIN: PASS, SHORT: NONFINITE, SOFTCAP: GAP}))
    assert done.code == 0, done.printed
    assert "NO CELL UNEXPLAINED: of" in done.out
    assert f"(docs/findings.md#a-row-without-a-key)\n    {SHORT}" in done.out
    assert f"declared gap: The kernel takes none (docs/findings.md#limits)\n    {SOFTCAP}" in done.out


def test_an_incomplete_record_ends_with_3(record: RecordOf, command: Callable[..., Done]) -> None:
    done = command("matrix", record("one", {PLAIN: PASS}, planned=[SHORT], cut=True))
    assert done.code == 3, done.printed
    assert "INCOMPLETE, a run was cut short or a shard is missing" in done.out
    assert done.out.splitlines()[-1].startswith("INCOMPLETE:")
    worse = command("matrix", record("two", {PLAIN: NONFINITE}, planned=[SHORT], cut=True))
    assert worse.code == 1, "what fails fails, whatever is missing"


@pytest.mark.parametrize("result", [REFUSED, NOT_RUN])
def test_a_matrix_in_which_nothing_ran_ends_with_3(
    record: RecordOf, command: Callable[..., Done], result: dict[str, Any]
) -> None:
    done = command("matrix", record("one", {PLAIN: result}))
    assert done.code == 3, done.printed
    assert done.out.splitlines()[-1] == "NOTHING RAN."


def test_what_cannot_stand_side_by_side_is_one_sentence(record: RecordOf, command: Callable[..., Done]) -> None:
    one, alike = record("one", {PLAIN: PASS}), record("alike", {PLAIN: PASS}, "0.1.17")
    edited = record("edited", {PLAIN: PASS}, "0.1.18", digests={PLAIN: "0" * 16})
    other, elsewhere = record("other", {PLAIN: NONFINITE}), record("elsewhere", {PLAIN: PASS | {"path": "kvcache"}})
    silent = record("silent", {PLAIN: GAP | {"expected": {}}})
    no_word = record("no word", {PLAIN: GAP | {"expected": DECLARED | {"status": "BROKEN"}}})
    (one.parent / "no record").write_text("{}\n")
    unknown = one.parent / "unknown"
    unknown.write_text(one.read_text().replace("decode-causal", "decode-sideways"))
    assert command("matrix", one, alike).code == 0
    for paths, sentence in (
        ([one, edited], f"the inputs or the oracle of {PLAIN} are of another version"),
        ([one, other], f"have different results of {PLAIN} on one system: PASS and NONFINITE"),
        ([one, elsewhere], f"have different paths of {PLAIN} on one system: unified and kvcache"),
        ([silent], "silent, line 2: what was expected lacks one of entry, status, reason, issue"),
        ([no_word], "no word, line 2: what was expected lacks one of entry, status, reason, issue"),
        ([one, one.parent / "absent"], "absent"),
        ([one.parent / "no record"], "its first line is no header"),
        ([unknown], "does not know a check of the records"),
    ):
        done = command("matrix", *paths)
        assert done.code == 2, done.printed
        assert sentence in done.err
        assert len(done.err.splitlines()) == 1
        assert not done.out


def test_no_record_and_no_such_format_are_bad_usage(record: RecordOf, command: Callable[..., Done]) -> None:
    assert command("matrix").code == 2
    assert command("matrix", record("one", {PLAIN: PASS}), "--format", "html").code == 2


def test_all_formats_say_the_same(record: RecordOf, command: Callable[..., Done]) -> None:
    results = {PLAIN: PASS, SHORT: NONFINITE, SOFTCAP: REFUSED, DRAFT: GAP, f"repeated/{PLAIN}": NONFINITE}
    paths = [record("old", results), record("new", {PLAIN: PASS}, "0.1.18")]
    some = of(*paths, findings=found.committed())
    dones = {name: command("matrix", *paths, "--format", name) for name in FORMATS}
    assert {done.code for done in dones.values()} == {1}
    held = json.loads(dones["json"].out)
    assert [column["counts"] for column in held["columns"]] == [
        {"passed": 1, "refused": 1, "expected": 1, "known": 1, "unexplained": 1}, {"passed": 1, "not run": 4},
    ]  # fmt: skip
    assert [(one["column"], one["check"], one["status"]) for one in held["unexplained"]] == [
        (0, f"repeated/{PLAIN}", "NONFINITE")
    ]
    assert [note["check"] for note in held["notes"]] == [SHORT, SOFTCAP, DRAFT]
    lines = [line for line in dones["markdown"].out.splitlines() if line.startswith("| `")]
    assert len(lines) == len(held["rows"]) == len(some.rows)
    for line, row in zip(lines, held["rows"], strict=True):
        path, feature, *cells = (word.strip(" `") for word in line.strip("|").split("|"))
        assert (path, feature) == (row["path"], row["feature"])
        for word, one in zip(cells, row["cells"], strict=True):
            want = "" if one is None else f"{SIGNS[State(one['state'])]} {one['passed']}/{one['run']}/{one['total']}"
            assert word == want or word.startswith(f"{want} "), line
            assert not word or word in dones["text"].out


def test_a_real_run_is_read(start: Callable[..., Done], command: Callable[..., Done], elsewhere: Path) -> None:
    ids = [PLAIN, SOFTCAP, f"repeated/{PLAIN}"]
    ran = start("run", "--backend", "torch", "--target", "cpu", *(f"--case={check}" for check in ids),
                "--record", elsewhere / "record")  # fmt: skip
    assert ran.code == 0, ran.printed
    done = command("matrix", elsewhere / "record")
    assert done.code == 0, done.printed
    assert re.search(r"^  softcap +- 0/0/1 refused 1 \[1\]$", done.out, re.MULTILINE), "in its row"
    assert re.search(r"^  invariances +\+ 1/1/1$", done.out, re.MULTILINE)
    assert f"[1] refused: scaled_dot_product_attention has no softcap\n    {SOFTCAP}" in done.out
