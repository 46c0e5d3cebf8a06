"""Comparing records: what each change of a check is called, and what the exit code says of it."""

import json
import lzma
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.compare import FLOOR, Change, compare
from conformance.compare_shown import as_json, as_markdown, as_text
from conformance.record import BadRecord, Record, Writer, read
from tests.harness.conftest import Done
from tests.harness.versions_recorded import PLAIN, WRONG
from tests.harness.versions_recorded import written as recorded

PASS, MISMATCH, NONFINITE = {"status": "PASS"}, {"status": "MISMATCH"}, {"status": "NONFINITE"}
UNSUPPORTED, NOT_RUN, CRASH = {"status": "UNSUPPORTED"}, {"status": "NOT RUN"}, {"status": "CRASH"}
GAP = MISMATCH | {
    "expected": {"status": "MISMATCH", "reason": "It is wrong", "issue": "docs/findings.md", "entry": "a.toml, entry 1"}
}

Results = Mapping[str, dict[str, Any] | None]
"""By check, what a line of a record says of it; None for no line."""

CHANGES: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, Change | None]] = {
    "passes": (PASS, PASS, None),
    "fails": (MISMATCH, MISMATCH, None),
    "is declined": (UNSUPPORTED, UNSUPPORTED, None),
    "fixed": (MISMATCH, PASS, Change.FIXED),
    "a gap closed": (GAP, PASS, Change.FIXED),
    "served now": (UNSUPPORTED, PASS, Change.FIXED),
    "regressed": (PASS, MISMATCH, Change.REGRESSED),
    "crashes": (PASS, CRASH, Change.REGRESSED),
    "a gap that was none": (PASS, GAP, Change.REGRESSED),
    "no longer served": (PASS, UNSUPPORTED, Change.REGRESSED),
    "served wrongly": (UNSUPPORTED, MISMATCH, Change.REGRESSED),
    "changed kind": (MISMATCH, NONFINITE, Change.CHANGED_KIND),
    "declined now": (MISMATCH, UNSUPPORTED, Change.CHANGED_KIND),
    "gone": (PASS, None, Change.MISSING),
    "not run now": (PASS, NOT_RUN, Change.MISSING),
    "new": (None, PASS, Change.NEW),
    "run now": (NOT_RUN, MISMATCH, Change.NEW),
    "never run": (NOT_RUN, NOT_RUN, None),
    "a gap that is known now": (MISMATCH, GAP, None),
}


def record(results: Results, complete: bool = True) -> Record:
    cases = [{"case": case, "digest": f"of {case}", **result} for case, result in results.items() if result]
    return Record({"planned": len(cases), "run": {"backend": "fake"}, "environment": {}}, cases, complete)


def changes(old: Results, new: Results) -> dict[str, tuple[str, str]]:
    return {c.check: (c.change, c.how) for c in compare(record(old), record(new)).changes}


def test_each_change_has_its_name() -> None:
    """All in one pair of records, of which every check that passes the same keeps its place."""
    found = changes(
        {name: old for name, (old, _, _) in CHANGES.items()}, {name: new for name, (_, new, _) in CHANGES.items()}
    )
    assert {name: change for name, (change, _) in found.items()} == {
        name: change for name, (_, _, change) in CHANGES.items() if change
    }
    assert found["a gap closed"][1] == "MISMATCH (expected) -> PASS"
    assert found["regressed"][1] == "PASS -> MISMATCH"


@pytest.mark.parametrize("name", FLOOR)
def test_a_pass_drifts_if_a_figure_grows_by_half_and_means_something(name: str) -> None:
    floor = FLOOR[name]

    def drifts(was: float, now: float, status: dict[str, Any] = PASS) -> bool:
        return "a" in changes({"a": status | {name: was}}, {"a": status | {name: now}})

    assert drifts(floor, 1.5 * floor)
    assert drifts(0.0, 1.01 * floor)
    assert not drifts(floor, 1.49 * floor), "it grew by less than half"
    assert not drifts(0.01 * floor, floor), "it is not above the floor"
    assert not drifts(1.5 * floor, floor), "it fell"
    assert not drifts(floor, 2 * floor, MISMATCH), "of a failure a figure says nothing"
    assert changes({"a": PASS}, {"a": PASS | {name: 2.0}}) == {}, "it had no such figure"


def test_drift_says_what_grew() -> None:
    old = PASS | {"bound": 0.2, "noise": 0.6}
    assert changes({"a": old}, {"a": PASS | {"bound": 0.4, "noise": 0.9}})["a"] == (
        Change.DRIFT, "bound 0.2 -> 0.4; noise 0.6 -> 0.9",
    )  # fmt: skip


def kernel(name: str, **needs: int) -> dict[str, Any]:
    return {"name": name, "vgprs": 100, "vgpr_spills": 0, "sgpr_spills": 0, "lds": 1024, "code": 4096, **needs}


def built(*kernels: dict[str, Any]) -> dict[str, Any]:
    return PASS | {"kernels": list(kernels)}


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        (kernel("f"), kernel("f", vgpr_spills=3), "f: vgpr_spills 0 -> 3"),
        (kernel("f", sgpr_spills=2), kernel("f", sgpr_spills=4), "f: sgpr_spills 2 -> 4"),
        (kernel("f"), kernel("f", lds=2048), "f: lds 1024 -> 2048"),
        (kernel("f", lds=2048), kernel("f"), ""),
        (kernel("f"), kernel("f", vgprs=200, code=9999), ""),
        (kernel("f"), kernel("g", vgpr_spills=3), ""),
    ],
)
def test_a_built_kernel_drifts_if_it_spills_more_or_takes_more_lds(
    old: dict[str, Any], new: dict[str, Any], how: str
) -> None:
    same = kernel("same", vgpr_spills=7)
    assert changes({"a": built(old, same)}, {"a": built(same, new)}) == ({"a": (Change.DRIFT, how)} if how else {})


def test_of_several_builds_of_a_kernel_the_neediest_counts() -> None:
    old = built(kernel("f", lds=512), kernel("f", lds=4096))
    assert changes({"a": old}, {"a": built(kernel("f", lds=4096), kernel("f", lds=4096))}) == {}
    assert changes({"a": old}, {"a": built(kernel("f", lds=8192))})["a"][1] == "f: lds 4096 -> 8192"


def test_a_check_whose_inputs_are_another_versions_is_not_compared() -> None:
    old, new = {"a": PASS, "b": PASS}, {"a": PASS, "b": MISMATCH | {"digest": "another"}}
    assert changes(old, new) == {"b": (Change.EDITED, "")}
    assert compare(record(old), record(new)).common == 1
    with pytest.raises(
        BadRecord, match="in all 1 checks that both records have, the inputs or the oracle are of anoth"
    ):
        compare(record({"b": PASS}), record({"b": MISMATCH | {"digest": "another"}, "c": PASS}))


def test_relations_and_cases_are_told_apart() -> None:
    related = MISMATCH | {"relation": "repeated", "case": "a"}
    assert changes({"a": PASS, "repeated": related | PASS}, {"a": PASS, "repeated": related}) == {
        "repeated/a": (Change.REGRESSED, "PASS -> MISMATCH")
    }


def test_a_pull_request_reads_the_verdict_first_and_what_regressed_unfolded() -> None:
    old = {"a": PASS, "b": MISMATCH, "c": PASS, **{f"gone {n}": PASS for n in range(12)}}
    said = list(as_markdown(compare(record(old), record({"a": MISMATCH, "b": PASS, "c": PASS}))))
    assert said[0] == "**REGRESSED: of 3 checks in common: 1 regressed, 12 missing, 1 fixed.**"
    assert [line for line in said if line.startswith("<details")] == [
        "<details open><summary>REGRESSED: 1</summary>",
        "<details><summary>MISSING: 12</summary>",
        "<details><summary>FIXED: 1</summary>",
    ]
    assert "* `a`: PASS -> MISMATCH" in said
    assert "* ... and 2 more" in said
    assert said.count("</details>") == 3


def test_a_machine_reads_every_change() -> None:
    old = {"a": PASS, **{f"gone {n}": PASS for n in range(12)}}
    (said,) = as_json(compare(record(old), record({"a": MISMATCH}, complete=False)))
    read_back = json.loads(said)
    assert read_back["changes"]["REGRESSED"] == [{"check": "a", "how": "PASS -> MISMATCH"}]
    assert len(read_back["changes"]["MISSING"]) == 12
    assert (read_back["regressed"], read_back["complete"], read_back["common"]) == (True, False, 1)
    assert read_back["new"]["counts"] == {"MISMATCH": 1}
    assert read_back["verdict"].startswith("REGRESSED")


def test_many_new_checks_are_counted_and_a_few_named() -> None:
    new = {f"case{number}": PASS for number in range(30)} | {f"bad{number}": MISMATCH for number in range(30)}
    old = {f"bad{number}": PASS for number in range(30)}
    said = list(as_text(compare(record(old), record(new))))
    assert "NEW  30" in said
    assert "  ... and 20 more" in said
    assert sum(line.startswith("  case") for line in said) == 10
    assert sum(line.startswith("  bad") for line in said) == 30, "every regression is named"
    assert said.index("REGRESSED  30") > said.index("NEW  30"), "the gravest last"
    assert said[-1] == "REGRESSED: of 30 checks in common: 30 regressed, 30 new."


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def written(name: str, results: dict[str, dict[str, Any]], complete: bool = True) -> Path:
        writer = Writer(tmp_path / name)
        writer.header(len(results), {"backend": "aiter", "aiter": {"version": name}}, {"target": "gpu:gfx942"})
        for case, result in results.items():
            writer.case(**{"case": case, "digest": f"of {case}", **result})
        if complete:
            writer.footer(Counter(result["status"] for result in results.values()), 1.0)
        writer.close()
        return tmp_path / name

    return written


BASE = {"a": PASS | {"bound": 0.3}, "b": MISMATCH}

EXIT_CODES: dict[str, tuple[dict[str, dict[str, Any]], int, int, str]] = {
    "equal": (BASE, 0, 0, "EQUAL: of 2 checks in common: all as they were."),
    "regressed": (BASE | {"a": CRASH}, 1, 1, "REGRESSED: of 2 checks in common: 1 regressed."),
    "fixed": (BASE | {"b": PASS}, 0, 1, "NO REGRESSION: of 2 checks in common: 1 fixed."),
    "drifted": (BASE | {"a": PASS | {"bound": 0.6}}, 0, 1, "NO REGRESSION: of 2 checks in common: 1 drift."),
    "changed": (BASE | {"b": CRASH}, 0, 1, "NO REGRESSION: of 2 checks in common: 1 changed kind."),
    "new": (BASE | {"c": PASS}, 0, 1, "NO REGRESSION: of 2 checks in common: 1 new."),
    "missing": ({"a": BASE["a"]}, 0, 1, "NO REGRESSION: of 1 checks in common: 1 missing."),
    "disjoint": ({"c": PASS}, 3, 1, "NOTHING COMPARED: the records have no check in common."),
    "edited": ({"a": PASS | {"digest": "x"}}, 2, 2, ""),
}


@pytest.mark.parametrize("what", EXIT_CODES)
def test_the_exit_code_is_that_of_a_regression_or_strictly_of_any_change(
    written: Callable[..., Path], command: Callable[..., Done], what: str
) -> None:
    results, code, strictly, verdict = EXIT_CODES[what]
    old, new = written("0.1.15", BASE), written("0.1.20", results)
    done = command("compare", old, new)
    assert (done.code, command("compare", old, new, "--strict").code) == (code, strictly), done.printed
    assert (done.out.splitlines() or [""])[-1] == verdict
    assert len(done.err.splitlines()) == (code == 2)
    if code != 2:
        assert done.out.startswith("old  aiter 0.1.15 (gpu:gfx942): 1 PASS, 1 MISMATCH\nnew  aiter 0.1.20 (gpu:gfx942)")


def test_what_a_cut_record_lacks_may_have_regressed(written: Callable[..., Path], command: Callable[..., Done]) -> None:
    whole, cut = written("whole", BASE), written("cut", {"a": BASE["a"]}, complete=False)
    assert not read(cut).complete
    for pair in ((whole, cut), (cut, whole)):
        done = command("compare", *pair)
        assert done.code == 3, done.printed
        assert "INCOMPLETE" in done.out
    assert command("compare", whole, written("worse", {"a": CRASH}, complete=False)).code == 1


def test_a_record_may_have_a_comma_in_its_name(written: Callable[..., Path], command: Callable[..., Done]) -> None:
    assert command("compare", written("a,b", BASE), written("c", BASE)).code == 0


def test_folders_are_compared_version_by_version(tmp_path: Path, command: Callable[..., Done]) -> None:
    def write(folder: str, version: str, status: str) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        writer = Writer(tmp_path / folder / f"{version}.jsonl")
        run = {"backend": "fake", "aiter": {"version": version, "commit": version}, "options": []}
        writer.header(1, run, {"target": "cpu", "torch": f"of {folder}"})
        writer.case(case="a", digest="of a", status=status)
        writer.footer(Counter([status]), 1.0)
        writer.close()

    for folder, version, status in (("old", "1", "PASS"), ("old", "2", "MISMATCH"), ("old", "3", "PASS"),
                                    ("new", "1", "MISMATCH"), ("new", "2", "PASS"), ("new", "4", "PASS")):  # fmt: skip
        write(folder, version, status)
    done = command("compare", tmp_path / "old", tmp_path / "new")
    assert done.code == 1
    assert "fake 1 (cpu): REGRESSED: of 1 checks in common: 1 regressed." in done.out
    assert "fake 2 (cpu): NO REGRESSION: of 1 checks in common: 1 fixed." in done.out
    assert "only in the old set: fake 3 (cpu)" in done.out
    assert "only in the new set: fake 4 (cpu)" in done.out
    both = [f"{tmp_path}/old/2.jsonl,{tmp_path}/old/3.jsonl", f"{tmp_path}/new/2.jsonl,{tmp_path}/old/3.jsonl"]
    assert command("compare", *both).code == 0
    assert command("compare", "--strict", *both).code == 1
    shown = json.loads(command("compare", "--format", "json", *both).out)
    assert [pair["verdict"].partition(":")[0] for pair in shown["pairs"]] == ["EQUAL", "NO REGRESSION"]
    (tmp_path / "empty").mkdir()
    assert "empty holds no record" in command("compare", tmp_path / "empty", tmp_path / "new").err


def test_what_xz_made_small_is_compared_in_a_folder_too(tmp_path: Path, command: Callable[..., Done]) -> None:
    for folder, result in (("old", PASS), ("new", WRONG)):
        (tmp_path / folder).mkdir()
        plain = recorded(tmp_path / folder, "a.jsonl", {PLAIN: result})
        (tmp_path / folder / "a.jsonl.xz").write_bytes(lzma.compress(plain.read_bytes()))
        plain.unlink()
    done = command("compare", tmp_path / "old", tmp_path / "new")
    assert done.code == 1, done.printed
    assert "REGRESSED" in done.out


def test_what_was_built_is_not_compared_with_what_was_run(tmp_path: Path, command: Callable[..., Done]) -> None:
    """Nothing was mended by a build that passes."""
    ran = recorded(tmp_path, "ran.jsonl", {PLAIN: WRONG})
    built = recorded(tmp_path, "built.jsonl", {PLAIN: PASS}, target="compile:gfx942")
    done = command("compare", ran, built)
    assert (done.code, done.out) == (2, "")
    assert "what builds says nothing about numbers" in done.err
