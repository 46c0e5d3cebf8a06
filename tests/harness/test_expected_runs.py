"""Whole runs with declared gaps: what fails a run and what does not, what is printed, recorded and put into JUnit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from conformance.record import check_id, fails, read
from conformance.status import Status
from tests.harness import test_run
from tests.harness.small_aiter import Checkout
from tests.harness.test_expectations import GOOD, toml
from tests.harness.test_run import Done, case_of, chosen, recorded

start, command, elsewhere = test_run.start, test_run.command, test_run.elsewhere  # fixtures

ANSWERS = ("--backend", "answers:by_page_size", "--target", "cpu")


def expecting(path: Path, status: str, *behaviours: str, **fields: object) -> Path:
    """A list of one entry: the cases in which `answers.by_page_size` behaves so."""
    entry = GOOD | {"match": ["*" + case_of(name) for name in behaviours], "status": status, "since": "0"} | fields
    path.write_text(path.read_text() + toml(entry) if path.exists() else toml(entry))
    return path


def results(path: Path) -> dict[str, dict[str, Any]]:
    return {check_id(line): line for line in recorded(path)[1:] if line["kind"] == "case"}


def test_one_run_meets_everything_that_can_come_of_an_expectation(start: Callable[..., Done], elsewhere: Path) -> None:
    """On two workers, one of which dies; a relation among the checks."""
    path, junit, mine = elsewhere / "record.jsonl", elsewhere / "junit.xml", elsewhere / "mine.toml"
    expecting(mine, "ERROR", "raises", "wrong", "right", "declines", reason="It raises", issue="https://e.org/1")
    expecting(mine, "CRASH", "dies", reason="It dies")
    expecting(mine, "NONFINITE", "nan", match=f"repeated/{case_of('nan')}", reason="It is NaN")
    checks = [*map(case_of, ("raises", "wrong", "right", "declines", "dies", "says_more", "nan"))]
    checks.append(f"repeated/{case_of('nan')}")
    done = start("run", *ANSWERS, *chosen(*checks), "--expectations", "mine.toml", "-n", 2,
                 "--record", path, "--junitxml", junit)  # fmt: skip
    assert done.code == 1, done.printed
    assert "INTERNALERROR" not in done.printed
    assert "Traceback" not in done.printed

    found, entry = results(path), {"reason": "It raises", "issue": "https://e.org/1", "entry": "mine.toml, entry 1"}
    raises, wrong, right, declines, dies, says_more, nan, related = checks
    assert {name: (line["status"], "expected" in line, fails(line)) for name, line in found.items()} == {
        raises: ("ERROR", True, False),
        wrong: ("MISMATCH", True, True),
        right: ("PASS", True, True),
        declines: ("UNSUPPORTED", True, True),
        dies: ("CRASH", True, False),
        says_more: ("PASS", False, False),
        nan: ("NONFINITE", False, True),
        related: ("NONFINITE", True, False),
    }
    assert found[raises]["expected"] == {"status": "ERROR", **entry}
    assert "the first line" in found[raises]["reason"], "what was raised is recorded too"
    assert found[dies]["expected"]["entry"] == "mine.toml, entry 2"
    assert "crashed while running" in found[dies]["reason"]
    assert found[wrong].keys() >= {"bound", "noise", "expected"}, "figures are kept"
    assert read(path).complete
    assert read(path).counts[Status.ERROR] == 1

    out = done.out
    assert "6 gaps expected, by mine.toml, entries 1, 2 and 3" in out
    assert re.search(r"6 of 7 cases and 1 of 1 relations run: 2 PASS, 1 MISMATCH, 1 NONFINITE, 1 UNSUPPORTED, "
                     r"3 expected gaps$", out, re.MULTILINE)  # fmt: skip
    for line in ("1 expected ERROR: It raises (https://e.org/1)", "1 expected CRASH: It dies (https://example.org/",
                 "1 expected NONFINITE: It is NaN", "1 PASS, not ERROR as mine.toml, entry 1 says",
                 "1 MISMATCH, not ERROR as mine.toml, entry 1 says"):  # fmt: skip
        assert re.search(rf"^{re.escape(line)}", out, re.MULTILINE), line
    assert "NOT CONFORMANT: 4 of 7 cases and 0 of 1 relations fail." in out
    closed = "AITER closed this gap: delete the entry, or narrow it to what still fails (mine.toml, entry 1: It raises)"
    assert out.count(closed) == 1
    assert re.search(rf"^PASS .*{re.escape(right)}\n  worst   .*\n  entry   {re.escape(closed)}\n  repro   .* "
                     rf"--expectations mine.toml --case {re.escape(right)}$", out, re.MULTILINE)  # fmt: skip
    assert "  entry   mine.toml, entry 1, expects ERROR, not MISMATCH: It raises\n" in out
    assert "  entry   AITER declines this now, instead of failing: delete the entry, or narrow it" in out
    assert re.search(rf"expected ERROR, .*{re.escape(raises)}", out), "the word that shows progress"
    assert re.search(r"^=+ 4 failed, 1 passed, 3 expected in ", out, re.MULTILINE)

    tests = {re.search(r"\[(.*)\]", test.get("name", "") + test.get("classname", "")).group(1): test  # type: ignore[union-attr]
             for test in ElementTree.parse(junit).iter("testcase")}  # fmt: skip
    assert tests.keys() == set(checks)
    for name, test in tests.items():
        skipped = test.find("skipped")
        assert (test.find("failure") is not None) is fails(found[name])
        assert (skipped is not None) is (name in (raises, dies, related))
        if skipped is not None:
            assert skipped.get("type") == "pytest.xfail"
            assert found[name]["expected"]["reason"] in skipped.get("message", "")


def test_a_run_that_fails_as_expected_conforms(start: Callable[..., Done], elsewhere: Path) -> None:
    """In one process, without stopping at the first failure, since there is none."""
    expecting(elsewhere / "mine.toml", "ERROR", "raises", "leaves")
    expecting(elsewhere / "more.toml", "MISMATCH", "wrong")
    checks = map(case_of, ("raises", "leaves", "wrong", "right"))
    done = start("run", *ANSWERS, *chosen(*checks), "--expectations", "mine.toml", "--expectations", "more.toml", "-x")
    assert done.code == 0, done.printed
    assert "1 PASS, 3 expected gaps" in done.out
    assert re.search(r"^2 expected ERROR: The kernel has no such page \(https:", done.out, re.MULTILINE)
    assert re.search(r"^CONFORMANT, but for 3 expected gaps\.$", done.out, re.MULTILINE)
    assert f"[{case_of('raises')}] expected ERROR, 1/4" in done.out
    assert re.search(r"1 passed, 3 expected in", done.out)


@pytest.mark.parametrize(("behaviour", "status"), [("raises", "ERROR"), ("dies", "CRASH")])
def test_nothing_but_expected_gaps_is_no_failure_and_no_pass(
    start: Callable[..., Done], elsewhere: Path, behaviour: str, status: str
) -> None:
    expecting(elsewhere / "mine.toml", status, behaviour)
    done = start("run", *ANSWERS, *chosen(case_of(behaviour)), "--expectations", "mine.toml", "-n", 1)
    assert done.code == 0, done.printed
    assert "1 of 1 cases run: 1 expected gap" in done.out
    assert re.search(r"^NOTHING PASSED: 1 expected gap\.$", done.out, re.MULTILINE)


@pytest.mark.parametrize("workers", [(), ("-n", 1)])
def test_a_closed_gap_alone_fails_a_run(start: Callable[..., Done], elsewhere: Path, workers: tuple) -> None:
    expecting(elsewhere / "mine.toml", "CRASH", "right")
    done = start("run", *ANSWERS, *chosen(case_of("right")), "--expectations", "mine.toml", *workers)
    assert done.code == 1, done.printed
    assert "AITER closed this gap: delete the entry, or narrow it to what still fails (mine.toml, entry 1: " in done.out
    assert "NOT CONFORMANT: 1 of 1 cases fail." in done.out


def test_the_version_under_test_decides(start: Callable[..., Done], elsewhere: Path) -> None:
    """Of AITERs in a repository: before, at, and on another branch than the version in which the gap was closed."""
    checkout = Checkout(elsewhere / "checkout")
    checkout.commit("old", "v0.1.15")
    checkout.git("branch", "development")
    checkout.commit("new", "v0.1.15.post1")
    checkout.git("checkout", "--quiet", "development")
    checkout.commit("another way")
    expecting(elsewhere / "mine.toml", "ERROR", "raises", until="0.1.15.post1")
    run = ("run", *ANSWERS, *chosen(case_of("raises")), "--expectations", "mine.toml", "--aiter")
    gap, red = "1 expected gap", "1 of 1 cases run: 1 ERROR"
    for ref, code, said in (("v0.1.15", 0, gap), ("v0.1.15.post1", 1, red), ("development", 1, red)):
        done = start(*run, f"{checkout.path}@{ref}")
        assert (done.code, said in done.out) == (code, True), done.printed
        unknown = "not expected, since nobody can tell whether AITER 0.1.16.dev1+g"
        assert (unknown in done.out) is (ref == "development")


# -- mistakes, before anything runs ------------------------------------------------------------------------------------

CASE = case_of("right")

MISTAKES: dict[str, tuple[list[str], str]] = {
    "no such file": (["run", "--expectations", "no.toml"], "cannot read expectations from no.toml: "),
    "folder": (["run", "--expectations", "aiter"], "cannot read expectations from aiter: "),
    "bad entry": (["run", "--expectations", "bad.toml"], "bad.toml, entry 1: status 'PASS' cannot be expected"),
    "idle": (["run", "--expectations", "idle.toml"], "idle.toml, entry 1: 'nothing' matches no check, in any tier"),
    "two": (["run", "--case", CASE, "--expectations", "good.toml", "--expectations", "two.toml"],
            f"good.toml, entry 1, and two.toml, entry 1, both apply to {CASE}"),
    "doctor": (["doctor", "--expectations", "idle.toml"], "idle.toml, entry 1: 'nothing' matches no check, in any"),
    "fuzz": (["run", "--tier", "fuzz", "--expectations", "good.toml"], "leave out --expectations"),
    "fuzz without": (["run", "--tier", "fuzz", "--no-expectations"], "leave out --no-expectations"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence(command: Callable[..., Done], elsewhere: Path, mistake: str) -> None:
    expecting(elsewhere / "good.toml", "ERROR", "right")
    expecting(elsewhere / "two.toml", "ERROR", "right")
    expecting(elsewhere / "bad.toml", "PASS", "right")
    expecting(elsewhere / "idle.toml", "ERROR", "right", match="nothing")
    words, sentence = MISTAKES[mistake]
    done = command(*words)
    assert done.code == 2, done.printed
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert not done.out, "nothing is announced that will not happen"


def test_doctor_says_what_would_be_expected(command: Callable[..., Done], elsewhere: Path) -> None:
    match = "decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-pages.huge-packed-needle"
    expecting(elsewhere / "mine.toml", "ERROR", match=match)
    done = command("doctor", "--expectations", "mine.toml")
    assert done.code == 0
    assert re.search(r"^expectations +1 gap expected, by mine\.toml, entry 1$", done.out, re.MULTILINE)
    assert re.search(r"^expectations +none apply$", command("doctor").out, re.MULTILINE)
