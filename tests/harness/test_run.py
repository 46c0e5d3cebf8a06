"""Whole runs, as a user or a CI job starts them: exit codes, what is printed and recorded, what a mistake costs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import pytest

from conformance.check import of_tier
from conformance.record import check_id, read
from conformance.status import Status
from tests.harness.answers import BEHAVIOURS
from tests.harness.conftest import ROOT, Done


def case_id(page_size: int = 1, keys: int = 9) -> str:
    return f"decode-noncausal-bf16-b1-q2-h2:1-d16-p{page_size}-kv{keys}-packed-random"


def chosen(*ids: str) -> list[str]:
    return [word for name in ids for word in ("--case", name)]


def strictly(line: str) -> dict[str, Any]:
    """A line of a record, by the letter of JSON, which knows neither NaN nor Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON: {line}")

    return json.loads(line, parse_constant=refuse)


def recorded(path: Path) -> list[dict[str, Any]]:
    return [strictly(line) for line in path.read_text().splitlines()]


# -- runs ------------------------------------------------------------------------------------------------------------


def test_without_aiter_pytorch_stands_in_and_the_run_says_so(start: Callable[..., Done], elsewhere: Path) -> None:
    path = elsewhere / "record.jsonl"
    done = start("run", *chosen(case_id(), case_id(4), case_id()), "--record", path)
    assert done.code == 0, done.printed
    assert "2 chosen cases, backend torch, target cpu" in done.out
    assert "No AITER is installed: PyTorch's own attention stands in for it. This says nothing about AITER." in done.out
    assert re.search(r"^torch: 2 of 2 cases run: 2 PASS$", done.out, re.MULTILINE)
    assert re.search(r"^largest among 2 passes: error/bound 0\.\d+, noise ", done.out, re.MULTILINE)
    assert re.search(r"^CONFORMANT\.$", done.out, re.MULTILINE)
    header, first, second, footer = recorded(path)
    assert (header["kind"], header["planned"], header["run"]["backend"]) == ("header", 2, "torch")
    assert header["environment"].keys() >= {"suite", "python", "torch", "numpy", "pytest", "processor", "target"}
    assert [first["case"], second["case"]] == [case_id(), case_id(4)]
    for result in (first, second):
        assert result["status"] == "PASS"
        assert result.keys() >= {"digest", "bound", "noise", "row_noise", "seconds"}
    assert footer["counts"] == {"PASS": 2}
    assert read(path).complete


EXPECTED = {
    "right": Status.PASS,
    "wrong": Status.MISMATCH,
    "nan": Status.NONFINITE,
    "unwritten": Status.NONFINITE,
    "wrong_shape": Status.MALFORMED,
    "wrong_dtype": Status.MALFORMED,
    "infinite_lse": Status.MISMATCH,
    "declines": Status.UNSUPPORTED,
    "not_implemented": Status.UNSUPPORTED,
    "raises": Status.ERROR,
    "out_of_memory": Status.RESOURCE,
    "leaves": Status.ERROR,
    "skips": Status.ERROR,
    "dies": Status.CRASH,
    "says_more": Status.PASS,
    "warns": Status.PASS,
}


def case_of(behaviour: str) -> str:
    """The case with which `answers.by_page_size` behaves so."""
    return case_id(1 + [function.__name__ for function in BEHAVIOURS].index(behaviour))


def test_one_run_meets_everything_a_backend_can_do(start: Callable[..., Done], elsewhere: Path) -> None:
    """On two workers, one of which is killed by a case: every other case still has its own result.

    From the checkout, whose own tests may make errors of warnings; a backend's warnings are no defects.
    """
    path, junit = elsewhere / "record.jsonl", elsewhere / "junit.xml"
    wanted = {case_id(page): EXPECTED[behaviour.__name__] for page, behaviour in enumerate(BEHAVIOURS, 1)}
    done = start(
        "run", "--backend", "answers:by_page_size", *chosen(*wanted), "-n", 2, "--record", path, "--junitxml", junit,
        cwd=ROOT,
    )  # fmt: skip
    assert done.code == 1, done.printed
    assert "INTERNALERROR" not in done.printed
    header, *results, footer = recorded(path)
    assert {result["case"]: result["status"] for result in results} == wanted
    assert header["planned"] == len(results) == len(wanted)
    assert sum(footer["counts"].values()) == len(wanted)
    assert read(path).complete
    assert "NOT CONFORMANT: 11 of 16 cases fail." in done.out
    assert "1 UNSUPPORTED: no kernel has what this case asks" in done.out

    by_case = {result["case"]: result for result in results}
    crashed = case_of("dies")
    assert "crashed while running" in by_case[crashed]["reason"]
    assert by_case[case_of("says_more")]["path"] == "sdpa"

    for case, status in wanted.items():
        if not status.conformant:
            assert re.search(rf"{status}\b.*{re.escape(case)}", done.out), f"{status} {case} is not shown"
    assert (
        f"repro   python -m conformance run --backend answers:by_page_size --target cpu --case {case_id(2)}" in done.out
    )
    assert "Traceback" not in done.printed

    properties = {
        match.group(): {p.get("name"): p.get("value") for p in test.iter("property")}
        for test in ElementTree.parse(junit).iter("testcase")
        if (match := re.search(r"decode-[^\]]+", test.get("name", "") + test.get("classname", "")))
    }
    for case, status in wanted.items():
        if case != crashed:
            assert properties[case]["status"] == status


def test_an_interrupted_run_leaves_what_it_has(start: Callable[..., Done], elsewhere: Path) -> None:
    path = elsewhere / "record.jsonl"
    ids = [case_id(keys=keys) for keys in range(5, 9)]
    done = start("run", "--backend", "answers:interrupted_after_two", *chosen(*ids), "--record", path)
    assert done.code == 3, done.printed
    assert "2 PASS, 2 NOT RUN" in done.out
    assert "INCOMPLETE: 2 planned cases have no result." in done.out
    record = read(path)
    assert not record.complete
    assert record.header["planned"] == 4
    assert [case["case"] for case in record.cases] == ids[:2]
    assert "footer" not in path.read_text()


def test_pytest_itself_runs_the_suite(start: Callable[..., Done]) -> None:
    """From the checkout, with pytest's own options and exit codes; -k takes ids as they are."""
    keys = "kv100+37-packed-poison.tails and not decode-causal"
    done = start("conformance/suite", "-v", "-k", keys, "--backend", "torch", module="pytest", cwd=ROOT)
    assert done.code == 0, done.printed
    assert re.search(r"tier smoke, backend torch, target cpu$", done.out, re.MULTILINE)
    assert "torch: 1 of 1 cases run: 1 PASS" in done.out
    of_smoke = sum(check.runs_on("cpu") for check in of_tier("smoke"))
    assert f"{of_smoke - 1} of {of_smoke} checks were deselected." in done.out
    assert re.search(r"^CONFORMANT, in what was selected\.$", done.out, re.MULTILINE)
    assert "::test_conforms[decode-noncausal-bf16-b2-q8-h4:2-d64-p16-kv100+37-packed-poison.tails] PASS" in done.out


def test_a_run_in_which_everything_is_declined_proves_nothing(start: Callable[..., Done], elsewhere: Path) -> None:
    path = elsewhere / "record.jsonl"
    ids = [case_of("declines"), case_of("not_implemented")]
    done = start("run", "--backend", "answers:by_page_size", *chosen(*ids), "--record", path)
    assert done.code == 3, done.printed
    assert "0 of 2 cases run: 2 UNSUPPORTED" in done.out
    assert "NOTHING RAN." in done.out
    assert re.search(r"^CONFORMANT", done.out, re.MULTILINE) is None
    assert read(path).counts == {Status.UNSUPPORTED: 2}


def test_a_run_counts_what_was_declined(start: Callable[..., Done]) -> None:
    """Also apart where NotImplementedError was raised: by a kernel that no longer works as by one that never did."""
    ids = [case_of(name) for name in ("right", "declines", "not_implemented")]
    done = start("run", "--backend", "answers:by_page_size", *chosen(*ids))
    assert done.code == 0, done.printed
    assert "1 of 3 checks raised NotImplementedError, and count as declined: " in done.out
    assert re.search(r"^CONFORMANT, 2 of 3 checks declined\.$", done.out, re.MULTILINE)


def test_a_record_that_cannot_grow_costs_no_result(start: Callable[..., Done], elsewhere: Path) -> None:
    path, ids = elsewhere / "record.jsonl", [case_id(keys=keys) for keys in range(5, 15)]
    shell = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (2048, r.getrlimit(r.RLIMIT_FSIZE)[1])); "
    (elsewhere / "limited.py").write_text(shell + "import sys; from conformance.__main__ import main; sys.exit(main())")
    done = start("run", "--backend", "torch", *chosen(*ids), "--record", path, module="limited")
    assert done.code == 3, done.printed
    assert "INTERNALERROR" not in done.printed
    assert "10 of 10 cases run: 10 PASS" in done.out
    assert re.search(rf"^INCOMPLETE: cannot record to {path} any more: File too large\.$", done.out, re.MULTILINE)
    assert 0 < len(read(path).cases) < 10
    assert not read(path).complete


def test_a_checkout_may_lie_in_a_folder_with_brackets(start: Callable[..., Done], elsewhere: Path) -> None:
    folder = elsewhere / "a[1]"
    for name in ("conformance", "reference"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = start("run", *chosen(CASE), "--backend", "torch", "--rootdir", elsewhere, cwd=folder)
    assert "INTERNALERROR" not in done.printed
    assert done.code == 0, done.printed
    assert f"test_conforms[{CASE}] PASS" in done.out


def test_cases_and_relations_are_told_apart(start: Callable[..., Done], elsewhere: Path) -> None:
    """Also when a worker dies over a relation; and what a failed one prints runs it again."""
    path = elsewhere / "record.jsonl"
    related = [f"repeated/{case_of(name)}" for name in ("right", "nan", "declines", "dies")]
    command = ("run", "--backend", "answers:by_page_size", "--target", "cpu")
    done = start(*command, *chosen(case_of("right"), *related), "--record", path, "-n", 1)
    assert done.code == 1, done.printed
    assert "INTERNALERROR" not in done.printed
    assert "1 chosen case and 4 chosen relations, backend answers:by_page_size" in done.out
    assert "1 of 1 cases and 3 of 4 relations run: 2 PASS, 1 NONFINITE, 1 UNSUPPORTED, 1 CRASH" in done.out
    assert "NOT CONFORMANT: 0 of 1 cases and 2 of 4 relations fail." in done.out
    assert f"::test_holds[{related[0]}]" in done.out
    header, *results, _ = recorded(path)
    assert header["planned"] == len(results) == 5
    assert read(path).complete
    found = {check_id(result): result for result in results}
    assert {name: found[name]["status"] for name in found} == {
        case_of("right"): "PASS", **dict(zip(related, ("PASS", "NONFINITE", "UNSUPPORTED", "CRASH"), strict=True)),
    }  # fmt: skip
    assert "relation" not in found[case_of("right")]
    assert found[related[0]]["case"] == case_of("right")
    assert found[related[0]]["digest"] != found[case_of("right")]["digest"]
    for name, status in zip(related[1::2], ("NONFINITE", "CRASH"), strict=True):
        assert re.search(rf"^{status} .*{re.escape(name)}$", done.out, re.MULTILINE)
        assert f"  repro   python -m conformance {' '.join(command)} --case {name}" in done.out
    assert done.out.count("  against the same call once more: the answers must be equal bit for bit") == 2
    again = start(*command, *chosen(related[1]))
    assert again.code == 1
    assert "answers:by_page_size: 0 of 1 relations run" not in again.out
    assert "NOT CONFORMANT: 1 of 1 relations fail." in again.out


# -- mistakes --------------------------------------------------------------------------------------------------------

CASE = case_id()

MISTAKES: dict[str, tuple[list[str], str]] = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["dance"], "invalid choice: 'dance'"),
    "case": (["run", "--case", "garbage"], "not a case id: 'garbage'"),
    "one case of two": (["run", "--case", CASE, "--case", CASE + "x"], "regime 'randomx' is none of random, needle"),
    "relation": (["run", "--case", f"nope/{CASE}"], "no relation is called 'nope': there are repeated, "),
    "relation of a case": (["run", "--case", "repeated/garbage"], "not a case id: 'garbage'"),
    "relation that does not apply": (["run", "--case", f"batch.permuted/{CASE}"], "needs several sequences of one"),
    "relation of what is only built": (
        ["run", "--backend", "tests.harness.answers:right", "--target", "compile:gfx942", "--case", f"repeated/{CASE}"],
        "a compile target has no answers, so no relation between them can be checked: repeated/",
    ),
    "tier": (["run", "--tier", "nope"], "unknown tier 'nope': there is smoke"),
    "backend": (["run", "--backend", "nope"], "unknown backend 'nope': there are aiter, "),
    "module": (["run", "--backend", "no.module:f"], "backend no.module:f cannot be loaded: No module named 'no'"),
    "function": (["run", "--backend", "json:nope"], "backend json:nope cannot be loaded"),
    "target": (["run", "--target", "nope"], "target 'nope'"),
    "target of the backend": (["run", "--backend", "torch", "--target", "interpreter"], "choose gpu or cpu"),
    "no AITER": (["run", "--backend", "aiter"], "no AITER is installed: name one with --aiter PATH"),
    "AITER path": (["run", "--aiter", "/nowhere"], "no AITER at '/nowhere': there is no such path"),
    "AITER tree": (["run", "--aiter", "."], "it holds no aiter/ops/triton"),
    "AITER ref": (["run", "--aiter", ".@v1"], "has no ref"),
    "AITER for torch": (["run", "--backend", "torch", "--aiter", "."], "AITER"),
    "record exists": (["run", "--case", CASE, "--record", "exists.jsonl"], "exists.jsonl exists and is kept"),
    "record folder": (["run", "--case", CASE, "--record", "no/such/r.jsonl"], "cannot record to no/such/r.jsonl"),
    "record under a file": (["run", "--case", CASE, "--record", "exists.jsonl/r"], "cannot record to exists.jsonl/r"),
    "record name": (["run", "--case", CASE, "--record", "r" * 300], "cannot record to rrr"),
    "workers without GPUs": (["run", "--workers-per-gpu", "2"], "--workers-per-gpu is for -n auto and target gpu"),
    "workers of a CPU": (
        ["run", "--case", CASE, "--workers-per-gpu", "2", "-n", "auto", "--target", "cpu"],
        "--workers-per-gpu is for -n auto and target gpu",
    ),
    "no workers": (["run", "--workers-per-gpu", "0"], "--workers-per-gpu: invalid positive number value: '0'"),
    "shard": (["run", "--shard", "5/4"], "--shard 5/4 is no share: write 1/4 to 4/4"),
    "option of pytest": (["run", "--no-such-option"], "unrecognized arguments: --no-such-option"),
    "merge nothing": (["merge", "-o", "new.jsonl"], "required: RECORD"),
    "merge to nowhere": (["merge", "exists.jsonl"], "required: -o/--output"),
    "merge what is not there": (["merge", "none.jsonl", "-o", "new.jsonl"], "cannot read none.jsonl"),
    "merge what is no record": (["merge", "exists.jsonl", "-o", "new.jsonl"], "exists.jsonl is not a record"),
    "compare one": (["compare", "exists.jsonl"], "required: NEW"),
    "compare what is not there": (["compare", "none.jsonl", "exists.jsonl"], "cannot read none.jsonl"),
    "compare what is no record": (["compare", "exists.jsonl", "exists.jsonl"], "exists.jsonl is not a record"),
    "list": (["list", "--tier", "nope"], "unknown tier 'nope'"),
    "list more": (["list", "more"], "unrecognized arguments: more"),
    "show": (["show", "garbage"], "not a case id: 'garbage'"),
    "show nothing": (["show"], "required: CASE"),
    "show the impossible": (["show", CASE.replace("kv9", "kv99999999999999")], ""),
    "tier and case": (["run", "--case", CASE, "--tier", "smoke"], "--tier and --case both choose cases: name one"),
    "no backend": (["run", "--backend", ""], "unknown backend ''"),
    "no target": (["run", "--target", ""], "does not run on target ''"),
    "no tier": (["run", "--tier", ""], "unknown tier ''"),
    "no source": (["run", "--aiter", ""], "no AITER at '': there is no such path"),
    "report of pytest's": (["run", "--case", CASE, "--junitxml", "exists.jsonl/x"], "cannot write --junitxml exists"),
    "report where none can be": (["run", "--case", CASE, "--junitxml", "/proc/x"], "cannot write --junitxml /proc/x"),
    "record where none can be": (["run", "--case", CASE, "--record", "/proc/r.jsonl"], "cannot record to /proc/r.json"),
    "device": (["bench", "--device", "tpu"], "there is no device 'tpu': choose cpu, cuda or cuda:N"),
    "device that is not there": (["bench", "--device", "cuda:99"], "there is no device cuda:99: torch sees "),
    "doctor": (["doctor", "--backend", "nope"], "unknown backend 'nope'"),
    "doctor without AITER": (["doctor", "--backend", "aiter"], "no AITER is installed"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence(command: Callable[..., Done], elsewhere: Path, mistake: str) -> None:
    (elsewhere / "exists.jsonl").write_text("precious")
    words, sentence = MISTAKES[mistake]
    done = command(*words)
    assert done.code == 2, done.printed
    assert sentence in done.err
    assert "Traceback" not in done.printed
    assert "INTERNALERROR" not in done.printed
    said = [line for line in done.err.splitlines() if line and not line.startswith(("usage:", "ERROR: usage:", "  "))]
    assert len(said) == 1, done.err
    assert not done.out, "nothing is announced that will not happen"
    assert (elsewhere / "exists.jsonl").read_text() == "precious"
    assert {path.name for path in elsewhere.iterdir()} <= {"aiter", "exists.jsonl", ".pytest_cache"}


def test_a_mistake_reaches_the_shell(start: Callable[..., Done]) -> None:
    done = start("run", "--case", "garbage")
    assert done.code == 2
    assert "Traceback" not in done.printed
    assert [line for line in done.printed.splitlines() if line] == [
        "ERROR: not a case id: 'garbage' (a case id reads like "
        "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-packed-random)"
    ]


# -- what is no verdict ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--collect-only",), ("--co", "-q"), ("--markers",), ("--fixtures",)])
def test_what_runs_nothing_is_no_success(start: Callable[..., Done], words: tuple[str, ...]) -> None:
    assert start("run", "--case", CASE, *words).code == 3


def test_pytest_may_say_its_version(start: Callable[..., Done]) -> None:
    done = start("run", "--version")
    assert done.code == 0
    assert done.printed.startswith("pytest ")


def broken(*_: object) -> NoReturn:
    raise LookupError("a shelf\nis empty")


def interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("raising", "said"), [
    (broken, "conformance: LookupError: a shelf is empty "
             "(a defect of the suite; CONFORMANCE_TRACEBACK=1 shows where)\n"),
    (interrupted, "conformance: interrupted\n"),
])  # fmt: skip
def test_what_the_suite_itself_raises_never_says_that_kernels_are_wrong(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, raising: Callable[..., NoReturn], said: str
) -> None:
    for words, name in ((("list",), "of_tier"), (("show", CASE), "make"), (("doctor",), "choose")):
        monkeypatch.setattr(f"conformance.__main__.{name}", raising)
        assert command(*words) == Done(3, "", said)


def test_a_traceback_is_shown_to_whoever_asks(command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFORMANCE_TRACEBACK", "1")
    monkeypatch.setattr("conformance.__main__.of_tier", broken)
    done = command("list")
    assert done.code == 3
    assert "in broken\n" in done.err


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(elsewhere: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "conformance", "list"], stdout=write_end, stderr=subprocess.PIPE, env=environment,
        cwd=elsewhere, timeout=300, check=False,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (3, b"")


def test_an_aiter_without_kernels_is_the_same_to_every_command(start: Callable[..., Done], elsewhere: Path) -> None:
    (elsewhere / "tree/aiter/ops/triton").mkdir(parents=True)
    commands = (("run", "--case", CASE), ("doctor",), ("fuzz", "--cases", "1"), ("detect", "--kernels", "decode"))
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "conformance", *words, "--aiter", "tree"], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=elsewhere, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 3, done
        said = done.stdout + done.stderr
        assert "AITER unknown (tree) has no module aiter.ops.triton.attention.mha_v3 or aiter.ops.triton.mha_v3" in said
        assert "Traceback" not in said


# -- the other commands ----------------------------------------------------------------------------------------------


def test_list_prints_the_tier(command: Callable[..., Done]) -> None:
    done = command("list")
    assert done == command("list", "--tier", "smoke")
    assert done.code == 0
    assert done.out.splitlines() == [check.id for check in of_tier("smoke")]
    assert not done.err


def test_show_says_what_a_case_is(command: Callable[..., Done]) -> None:
    done = command("show", "decode-causal-bf16-b2-q1+3-h4:2-d16-p4-kv9-w3:inf-packed-needle")
    assert done.code == 0
    pairs = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert pairs["query_lens"] == "(1, 3)"
    assert pairs["window"] == "(3, -1)"
    assert pairs["k_cache (made)"] == "torch.bfloat16 [9, 4, 2, 16], strides [256, 32, 128, 1]"
    assert re.fullmatch(r"[0-9a-f]{16}", pairs["digest of all inputs"])


def test_show_says_what_a_relation_compares(command: Callable[..., Done]) -> None:
    done = command("show", "pages.renamed/decode-causal-bf16-b2-q1+3-h4:2-d16-p4-kv9-packed-needle")
    assert done.code == 0
    pairs = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert pairs["query_lens"] == "(1, 3)"
    assert pairs["compared with"] == "the same keys in other physical pages"
    assert pairs["must be"] == "equal bit for bit"
    assert pairs["digest of all inputs"] != pairs["inputs of that"]


def test_doctor_says_what_would_run(command: Callable[..., Done]) -> None:
    done = command("doctor")
    assert done.code == 0
    pairs = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert (pairs["would run"], pairs["AITER"]) == ("backend torch, target cpu", "none")
    assert pairs.keys() >= {"suite", "python", "torch", "pytest"}


def test_version(command: Callable[..., Done]) -> None:
    done = command("--version")
    assert done.code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.out)
