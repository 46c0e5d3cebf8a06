"""Mutation analysis from end to end, on a small AITER of the tests' own: what becomes of mutants, and of mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.detect.mutants import mutants
from tests.harness import mutable_aiter
from tests.harness.mutable_aiter import KERNELS, MODULE, VERSION, line

CASES = (
    "decode-noncausal-bf16-b1-q2-h2:1-d16-p2-kv3-contiguous-random",
    "decode-noncausal-bf16-b2-q1-h2:2-d16-p4-kv5+2-packed-random",
)
DECLINED = "decode-causal-bf16-b1-q1-h1:1-d16-p4-kv3-contiguous-random"

SCRIPT = """
import contextlib, io, json, sys
from conformance.__main__ import main

done = []
for words in json.load(sys.stdin):
    if words[0] == "--broken":  # a harness that finds no room for a mutant
        from conformance.detect.kernels import KernelModule

        def full(self, functions, text, put=KernelModule.put_in_place):
            if text != self.text:
                raise OSError(28, "No space left on device")
            put(self, functions, text)

        KernelModule.put_in_place, words = full, words[1:]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["detect", *words])
    done.append((code, out.getvalue(), err.getvalue()))
json.dump(done, sys.stdout)
"""
"""Several analyses in one process, which imports torch, Triton and the kernels once."""


@dataclass(frozen=True)
class Done:
    """An analysis that has ended."""

    code: int
    out: str
    err: str


def analyse(*commands: list[str]) -> list[Done]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(commands), capture_output=True, text=True, check=False,
        env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Done(*one) for one in json.loads(done.stdout)]


def options(tree: Path, *more: str, cases: tuple[str, ...] = CASES) -> list[str]:
    chosen = [word for case in cases for word in ("--case", case)]
    return ["--aiter", str(tree), "--kernels", "decode", "--least-time-limit", "0.5", "-j", "2", *chosen, *more]


def named(at: str, end: str) -> str:
    return f"small_decode.py:{line(at)}:{end}"


SURVIVES = named("survives", "constant:2000001")
NOT_REACHED = named("not reached", "constant:6")
HANGS = named("hangs", "statement:augmented")
KILLED = named("page = tl.load", "arithmetic:%")
RESCALE = named("acc = acc * alpha", "rescale:left")
IN_DEVICE_FUNCTION = named("return tl.exp", "swap:-")
ALL = (SURVIVES, NOT_REACHED, HANGS, KILLED, RESCALE, IN_DEVICE_FUNCTION)


def only(*ids: str) -> str:
    return "^(" + "|".join(ids) + ")$"


def equivalents(path: Path, mutant: str, *, digest: str = "", version: str = VERSION) -> Path:
    (found,) = [one for one in mutants(MODULE, KERNELS) if one.id == mutant]
    values = {"aiter": version, "mutant": mutant, "digest": digest or found.digest(KERNELS), "reason": "said so"}
    path.write_text("[[equivalent]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return path


@dataclass(frozen=True)
class Session:
    """The analyses of this file that need Triton, and their records."""

    some: Done
    every: Done
    again: Done
    other_cases: Done
    equivalent: Done
    stale: Done
    wrong: Done
    nothing: Done
    stopped: Done
    slow: Done
    large: Done
    broken: Done
    broken_record: list[dict]
    one_by_one: list[Done]
    record: list[dict]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("detect")
    tree, record = mutable_aiter.write(folder / "tree"), str(folder / "record.jsonl")
    lists = {
        "equivalent": equivalents(folder / "equivalent.toml", SURVIVES),
        "stale": equivalents(folder / "stale.toml", SURVIVES, digest="0" * 12),
        "wrong": equivalents(folder / "wrong.toml", KILLED),
    }
    with_declined = (*CASES, DECLINED)
    commands = {
        "some": options(tree, "--only", only(*ALL[:3]), "--record", record, cases=with_declined),
        "every": options(tree, "--only", only(*ALL), "--record", record, cases=with_declined),
        "again": options(tree, "--only", only(*ALL), "--record", record, cases=with_declined),
        "other_cases": options(tree, "--record", record),
        "equivalent": options(tree, "--only", only(SURVIVES, KILLED), "--equivalents", str(lists["equivalent"])),
        "stale": options(tree, "--only", only(KILLED), "--equivalents", str(lists["stale"])),
        "wrong": options(tree, "--only", only(KILLED), "--equivalents", str(lists["wrong"])),
        "nothing": options(tree, "--only", only(NOT_REACHED)),
        "stopped": options(tree, "--only", only(*ALL), "--stop-after", "0.000001"),
        "slow": options(tree, "--only", only(*ALL), "--max-seconds-per-case", "0.00001"),
        "large": options(tree, "--only", only(*ALL), "--max-mib-per-case", "0.00001"),
        "broken": ["--broken", *options(tree, "--only", only(*ALL), "--record", str(folder / "broken.jsonl"))],
    }
    shares = [options(tree, "--list", "--only", ":stride:", "--shard", f"{share}/2") for share in (1, 2)]
    done = analyse(*commands.values(), *shares)
    named_done = dict(zip(commands, done, strict=False))
    return Session(
        **named_done,
        one_by_one=done[len(commands) :],
        record=recorded(folder / "record.jsonl"),
        broken_record=recorded(folder / "broken.jsonl"),
    )


def recorded(path: Path) -> list[dict]:
    return [json.loads(said) for said in path.read_text().splitlines()]


def outcomes(session: Session) -> dict[str, tuple[str, str]]:
    return {e["mutant"]: (e["outcome"], e["status"]) for e in session.record if e["kind"] == "mutant"}


def test_a_mutant_is_killed_by_the_first_case_that_no_longer_passes(session: Session) -> None:
    killed = {name: outcomes(session)[name] for name in (KILLED, RESCALE, IN_DEVICE_FUNCTION)}
    assert set(killed.values()) <= {("killed", "MISMATCH"), ("killed", "NONFINITE")}
    by = {entry["mutant"]: entry for entry in session.record if entry["kind"] == "mutant"}[KILLED]
    assert by["by"] in CASES
    assert by["ran"] <= len(CASES)


def test_an_endless_loop_is_a_timeout(session: Session) -> None:
    assert outcomes(session)[HANGS] == ("killed", "TIMEOUT")


def test_a_survivor_is_shown_with_its_diff_and_fails_the_analysis(session: Session) -> None:
    assert outcomes(session)[SURVIVES] == ("survived", "")
    assert session.every.code == 1, session.every
    (survivor,) = [text for text in session.every.out.split("SURVIVED  ") if text.startswith("small_decode")]
    assert survivor.startswith(f"{SURVIVES}  in _fwd_kernel_splitK, digest ")
    assert "    -     keys = tl.minimum(tl.load(lens_ptr + sequence), 2000000)" in survivor
    assert "    +     keys = tl.minimum(tl.load(lens_ptr + sequence), 2000001)" in survivor


def test_a_mutant_on_a_line_that_no_case_runs_is_not_run(session: Session) -> None:
    assert NOT_REACHED not in outcomes(session)
    assert session.every.out.splitlines()[-1] == (
        "6 mutants: 4 killed, 1 survived, 0 equivalent by inspection, 1 not reached. Kill rate 80.0%."
    )
    assert session.nothing.code == 3, "nothing ran"


def test_rates_are_given_by_module_and_by_operator(session: Session) -> None:
    rows = {row.split()[0]: row.split()[1:] for row in session.every.out.splitlines() if row.endswith("%")}
    #                              mutants killed survived equivalent "not run" "not reached" rate
    assert rows["small_decode"] == ["6", "4", "1", "0", "0", "1", "80.0%"]
    assert rows["statement"] == ["1", "1", "0", "0", "0", "0", "100.0%"]
    assert rows["constant"] == ["2", "0", "1", "0", "0", "1", "0.0%"]


def test_a_case_that_does_not_pass_unmutated_cannot_kill(session: Session) -> None:
    assert "3 cases: 2 pass unmutated and judge; 1 cannot kill: UNSUPPORTED unmutated" in session.every.out
    assert DECLINED not in {entry.get("by") for entry in session.record}


def test_a_record_is_continued_where_it_ended(session: Session) -> None:
    assert session.some.code == 1
    assert f"{2} of 2 mutants" in session.some.out
    assert f"{3} of 3 mutants" in session.every.out, "what was recorded is not run again"
    assert "cases run unmutated" not in session.every.out
    assert " of " not in session.again.out.partition("\n")[2].partition("SURVIVED")[0], "there was nothing left to do"
    assert session.again.out.splitlines()[-1] == session.every.out.splitlines()[-1]
    kinds = [entry["kind"] for entry in session.record]
    assert kinds == ["detect", *["case"] * 3, *["mutant"] * 5]


def test_a_record_of_other_cases_is_refused(session: Session) -> None:
    assert session.other_cases.code == 2
    assert "was made with cases " in session.other_cases.err
    assert session.other_cases.err.count("\n") == 1


def test_a_mutant_that_is_equivalent_by_inspection_is_counted_apart(session: Session) -> None:
    assert session.equivalent.code == 0
    assert "SURVIVED" not in session.equivalent.out
    assert session.equivalent.out.splitlines()[-1] == (
        "2 mutants: 1 killed, 0 survived, 1 equivalent by inspection, 0 not reached. Kill rate 100.0%."
    )


def test_an_entry_whose_line_has_changed_is_refused_before_anything_runs(session: Session) -> None:
    assert session.stale.code == 2
    assert f"the list of equivalent mutants is stale: {SURVIVES}: it has digest " in session.stale.err
    assert "of" not in session.stale.out


def test_an_entry_that_a_case_kills_is_an_error(session: Session) -> None:
    assert session.wrong.code == 1
    assert f"NOT EQUIVALENT  {KILLED}  " in session.wrong.out


def test_an_analysis_that_is_stopped_is_incomplete(session: Session) -> None:
    assert session.stopped.code == 3
    assert "stopped before the first mutant" in session.stopped.err


def test_cases_that_are_too_slow_or_too_large_are_left_out_and_counted(session: Session) -> None:
    assert (session.slow.code, session.large.code) == (3, 3)
    slow = "0 pass unmutated and judge; 2 cannot kill: more than 1e-05 s of CPU time unmutated"
    assert f"2 cases: {slow}" in session.slow.out
    assert "2 cases: 0 pass unmutated and judge; 2 cannot kill: RESOURCE unmutated" in session.large.out


def test_a_failure_of_what_judges_kills_no_mutant_and_is_not_recorded(session: Session) -> None:
    assert session.broken.code == 3
    assert session.broken.err.endswith(" cannot be judged: OSError: [Errno 28] No space left on device\n")
    assert session.broken.err.count("\n") == 1
    assert "killed" not in session.broken.out
    assert [entry["kind"] for entry in session.broken_record] == ["detect", "case", "case"]


def test_a_case_that_a_mutant_declines_does_not_kill_it(tmp_path: Path) -> None:
    tree, store = mutable_aiter.write(tmp_path / "tree"), "tl.store(lse_ptr"
    launcher = tree / "aiter/ops/triton/attention/mha_v3.py"
    declines = '    if lse.isnan().any():\n        raise NotImplementedError("not supported")\n    return out,'
    launcher.write_text(launcher.read_text().replace("    return out,", declines))
    record = tmp_path / "record.jsonl"
    (done,) = analyse(options(tree, "--only", only(named(store, "statement:called")), "--record", str(record)))
    assert done.code == 1, done
    assert "1 mutants: 0 killed, 1 survived" in done.out
    assert recorded(record)[-1]["ran"] == len(CASES), "the next case may still kill it"


def test_a_record_is_not_continued_where_its_cases_no_longer_pass(tmp_path: Path) -> None:
    """As on a machine that lacks what they need; the record's header says all that it knows of that."""
    tree, record = mutable_aiter.write(tmp_path / "tree"), str(tmp_path / "record.jsonl")
    words = options(tree, "--only", only(KILLED), "--record", record)
    (first,) = analyse(words)
    assert first.code == 0
    lines = Path(record).read_text().splitlines(keepends=True)
    Path(record).write_text("".join(lines[:-1]))  # the mutant is to be judged again
    launcher = tree / "aiter/ops/triton/attention/mha_v3.py"
    launcher.write_text(launcher.read_text().replace("    return out,", "    return 2 * out,"))
    (again,) = analyse(words)
    assert again.code == 3
    assert re.search(r"-random is PASS in the record, but MISMATCH now: no mutant was run$", again.err)
    assert Path(record).read_text() == "".join(lines[:-1])


def test_shards_share_out_every_mutant_once(session: Session) -> None:
    shares = [
        {row.split()[0] for row in done.out.splitlines() if row.startswith("small")} for done in session.one_by_one
    ]
    assert all(done.code == 0 for done in session.one_by_one)
    assert all(shares)
    assert shares[0].isdisjoint(shares[1])
    assert shares[0] | shares[1] == {one.id for one in mutants(MODULE, KERNELS) if one.operator == "stride"}


def test_kernels_that_differ_in_a_copy_of_their_file_are_refused(tmp_path: Path) -> None:
    """What a mutant does could then not be laid to its change."""
    of_its_file = KERNELS.replace("* scale * factor", "* scale * (factor if IN_PLACE else 2.0)").replace(
        "FACTOR = 1.0", 'FACTOR = 1.0\nIN_PLACE = __file__.endswith("small_decode.py")'
    )
    (done,) = analyse(options(mutable_aiter.write(tmp_path / "tree", of_its_file), "--only", "swap"))
    assert done.code == 3
    assert "on an unchanged copy of the kernels: no mutant was run" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "gpu"], "mutants run in forked children of an interpreter: --target interpreter, not gpu"),
        (["--kernels", "decode,nope"], "--kernels decode,nope: there is decode and unified, not nope"),
        (["--only", "("], "--only (: "),
        (["--shard", "3/2"], "--shard 3/2 is no share: write 1/4 to 4/4"),
        (["-j", "0"], "--jobs 0: must be positive"),
        (["--max-seconds-per-case", "nan"], "--max-seconds-per-case nan: must be positive"),
        (["--tier", "nope"], "unknown tier 'nope'"),
        (["--tier", ""], "unknown tier ''"),
        (["--shard", ""], "--shard  is no share"),
        (["--aiter", ""], "no AITER at ''"),
        (["--tier", "smoke", "--case", CASES[0]], "--tier and --case both choose cases: name one"),
        (["--equivalents", "absent.toml"], "cannot read absent.toml: "),
        (["--aiter", "absent"], "no AITER at 'absent'"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", *words]) == 2
    assert said in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert "Traceback" not in error
