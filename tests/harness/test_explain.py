"""`explain`, and the line that a failing case of a run has of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.record import read
from tests.harness.conftest import Done

CASE = "decode-noncausal-bf16-b2-q4-h4:2-d32-p4-kv21+9-packed-random"

BACKEND = """
import os
from dataclasses import replace
from conformance.backends.torch import attend
from tests.harness.flash import Flash

def causal(case, inputs):
    return attend(replace(case, causal=True), inputs)

def shuffled(case, inputs):
    return attend(case, inputs).flip(-1).flip(0)

def right(case, inputs):
    return attend(case, inputs)

def aborts(case, inputs):
    os.abort()

calls = []

def unsteady(case, inputs):
    calls.append(1)
    return attend(case, inputs) + len(calls)
"""


def backend(elsewhere: Path, name: str) -> str:
    (elsewhere / "mistaken.py").write_text(BACKEND)
    return f"mistaken:{name}"


def test_a_mistake_is_named_with_where_it_shows(command: Callable[..., Done], elsewhere: Path) -> None:
    done = command("explain", CASE, "--backend", backend(elsewhere, "causal"))
    assert done.code == 1, done.printed
    lines = done.out.splitlines()
    assert lines[0].startswith("MISMATCH  mistaken:causal (cpu)   decode-noncausal")
    assert "  looks   as if a causal mask were applied, though the case has none: explains all of the error" in lines
    assert "  repeats bit for bit, in 2 more calls" in lines
    assert "  with    a causal mask, another kernel path: PASS" in lines
    assert any(line.startswith("  only    queries numbered less than 3") for line in lines)
    assert lines[-1].startswith("  repro   python -m conformance run")


def test_other_targets_say_whether_the_case_fails_there_too(start: Callable[..., Done], elsewhere: Path) -> None:
    """Each in a process of its own: this one interprets, so that it could neither build nor use a GPU."""
    words = ("explain", CASE, "--backend", backend(elsewhere, "causal"), "--target", "interpreter")
    done = start(*words, options=())
    assert done.code == 1, done.printed
    on = [line.removeprefix("  on      ") for line in done.out.splitlines() if line.startswith("  on ")]
    assert [line.split(": ")[0] for line in on] == ["gpu", "interpreter:gfx950", "compile:gfx942", "compile:gfx950"]
    assert on[1] == "interpreter:gfx950: MISMATCH"
    assert on[2].startswith("compile:gfx942: ERROR: ")  # it launches no kernel
    assert "TRITON_INTERPRET" not in done.out
    assert "  on " not in start(*words, "--here", options=()).out


def test_what_no_mistake_explains_is_said_so(command: Callable[..., Done], elsewhere: Path) -> None:
    done = command("explain", CASE, "--backend", backend(elsewhere, "shuffled"))
    assert done.code == 1
    assert "none explains it" in done.out
    assert "explains all" not in done.out


def test_answers_that_differ_from_call_to_call_are_said_to(command: Callable[..., Done], elsewhere: Path) -> None:
    done = command("explain", CASE, "--backend", backend(elsewhere, "unsteady"))
    assert "  repeats no: another call gives other bits" in done.out.splitlines()


def test_a_case_that_passes_needs_no_explanation(command: Callable[..., Done], elsewhere: Path) -> None:
    done = command("explain", CASE, "--backend", backend(elsewhere, "right"))
    assert done.code == 0
    assert done.out == f"PASS  mistaken:right   {CASE}, so there is nothing to explain\n"


def test_what_kills_its_process_is_said_by_another(command: Callable[..., Done], elsewhere: Path) -> None:
    words = ("explain", CASE, "--backend", backend(elsewhere, "aborts"))
    done = command(*words)
    assert done.code == 1
    assert done.out.startswith(f"CRASH  mistaken:aborts (cpu)   {CASE}\n  what    the process died: killed by SIGABRT")
    said = json.loads(command(*words, "--format", "json").out)
    assert (said["case"], said["system"], said["status"]) == (CASE, "mistaken:aborts", "CRASH")
    assert said["repro"].endswith(f"--case {CASE}")


def test_what_cannot_be_explained_is_refused_in_a_sentence(command: Callable[..., Done]) -> None:
    for words, sentence in (
        (["pages.moved/" + CASE], "explain takes a case, not a relation"),
        (["nonsense"], "not a case id: 'nonsense'"),
        ([CASE, "--backend", "nobody"], "unknown backend 'nobody'"),
        ([CASE, "--aiter", "nowhere@v1"], "nowhere"),
    ):
        done = command("explain", *words)
        assert done.code == 2, done.printed
        assert sentence in done.err
        assert done.err.count("\n") == 1


def test_a_run_says_what_a_failure_looks_like(start: Callable[..., Done], elsewhere: Path) -> None:
    path = elsewhere / "record.jsonl"
    done = start("run", "--backend", backend(elsewhere, "causal"), "--case", CASE, "--record", path)
    assert done.code == 1
    line = "as if a causal mask were applied, though the case has none: explains all of the error"
    assert f"  looks   {line}" in done.out
    assert [case["looks"] for case in read(path).cases] == [line]


def test_where_nothing_can_run_it_says_so_beside_its_output(
    start: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    done = start("explain", CASE, "--backend", "torch", "--target", "gpu", "--here", options=())
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("conformance: no GPU is visible")
    assert done.err.count("\n") == 1
