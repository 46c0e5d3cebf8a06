"""The search for false alarms: what it finds, says and returns, whoever answers."""

import re

import pytest
import torch

from benchmarks.alarm_tally import Tally
from benchmarks.false_alarms import main
from conformance import execute
from conformance.case import Case
from conformance.inputs import make
from conformance.judge import Figures, Verdict, case_noise_limit, judge
from conformance.status import Status
from tests.harness.correct import CORRECT

CASE = Case.parse("decode-causal-bf16-b1-q1-h1:1-d16-p16-kv9-packed-random")
OTHER = Case.parse("decode-causal-bf16-b1-q1-h1:1-d16-p16-kv8-packed-random")


def test_correct_emulations_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "9", "--first", "30"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{len(CORRECT)} correct emulations: random cases 30 to 38 of seed 0"
    assert out[1] == f"9 cases, {9 * len(CORRECT)} case-runs: {9 * len(CORRECT)} PASS"
    assert all(any(line.strip().startswith(name) for line in out) for name in CORRECT)
    assert out[-1] == "CLEAN: nothing was failed."


def test_a_wrong_backend_is_told_with_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "3", "--backend", "tests.harness.answers:wrong"]) == 1
    out = capsys.readouterr().out
    failed = out.count("MISMATCH  tests.harness.answers:wrong   decode-")
    declined = out.count("UNSUPPORTED x ")
    assert failed >= 1
    assert failed + declined <= 3
    assert out.endswith("NOT CLEAN.\n")


def test_a_process_that_dies_leaves_the_cases_among_which_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "2", "--backend", "tests.harness.answers:dies"]) == 3
    out = capsys.readouterr().out
    assert re.search(r"INCOMPLETE: a process died, at one of:\n  (decode|extend|prefill|mixed)-", out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "a number of cases, or a tier, and a number of jobs are needed"),
        (["--cases", "-1"], "a number of cases, or a tier, and a number of jobs are needed"),
        (["--cases", "1", "-j", "0"], "a number of cases, or a tier, and a number of jobs are needed"),
        (["--tier", "nope"], "unknown tier 'nope'"),
        (["--cases", "1", "--backend", "nobody"], "unknown backend 'nobody'"),
        (["--cases", "1", "--target", "moon"], "does not run on target 'moon'"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_sentence(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    err = capsys.readouterr().err
    assert err.startswith("false_alarms: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_pass_is_within_the_limits_that_the_tally_shows() -> None:
    """32 rows with one exact answer are one sample of the noise: the judge's limit is that of one row."""
    case = Case.parse("decode-causal-bf16-b1-q1-h32:1-d64-p16-kv1-packed-random")
    inputs = make(case)
    want = execute.exact(case, inputs)
    next_larger = (want.out.bfloat16().view(torch.int16) + 1).view(torch.bfloat16)
    verdict = judge(case, want, next_larger)
    assert verdict.status is Status.PASS
    assert verdict.figures is not None
    assert verdict.figures.noise > case_noise_limit(case.tokens * case.q_heads)
    tally = Tally()
    tally.note(case, "kvcache", verdict)
    noise, _ = tally.largest["kvcache"][1]
    assert noise == pytest.approx(verdict.figures.noise / case_noise_limit(1))


def test_tallies_add_up() -> None:
    one, two = Tally(), Tally()
    one.note(CASE, "unified", Verdict(Status.PASS, "", Figures(0.5, 0.7, 2.0)))
    one.note(CASE, "unified", Verdict(Status.UNSUPPORTED, "no softcap"))
    two.note(OTHER, "unified", Verdict(Status.PASS, "", Figures(0.4, 0.9, 3.0, 0.1)))
    two.note(OTHER, "unified", Verdict(Status.UNSUPPORTED, "no softcap"))
    two.note(OTHER, "kvcache", Verdict(Status.MISMATCH, "a row is off", Figures(9.0, 8.0, 7.0)))
    one.add(two)
    assert (one.statuses[Status.PASS], one.statuses[Status.UNSUPPORTED], one.failed) == (2, 2, 1)
    assert [case for _, case in one.largest["unified"]] == [CASE.id, OTHER.id, OTHER.id, OTHER.id]
    assert "kvcache" not in one.largest  # of passes only
    assert one.reasons == {(Status.UNSUPPORTED, "no softcap"): (2, CASE.id)}
    assert one.wrong == [f"MISMATCH  kvcache   {OTHER.id}\n    a row is off; error/bound 9, noise 8, of a row 7"]
