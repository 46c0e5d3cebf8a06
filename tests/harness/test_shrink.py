"""Shrinking: the same small case from several starts, on kernels with planted defects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.case import Case
from conformance.check import Check
from conformance.execute import exact
from conformance.failure import which_rows
from conformance.inputs import make
from conformance.status import Status
from conformance.triage.shrink import MOST_RUNS, Shrinking, rank
from conformance.triage.signature import Signature
from tests.harness.conftest import Done
from tests.harness.defects import DEFECTS

FAILURES = {
    "keys past 256 dropped": (
        257,
        "decode-noncausal-bf16-b1-q1-h1:1-d64-p16-kv257-contiguous-random",
        "decode-noncausal-fp16-b3-q8-h8:2-d128-p32-kv600+300+20-packed-needle",
        "decode-noncausal-bf16-b2-q16-h4:2-d64-p16-kv400+37-w300:inf-padded-random",
    ),
    "tail of the last page multiplied by zero": (
        1,
        "decode-noncausal-bf16-b1-q1-h1:1-d64-p16-kv1-contiguous-poison.tails",
        "decode-noncausal-bf16-b2-q8-h8:2-d128-p64-kv100+37-packed-poison.tails",
        "decode-noncausal-fp16-b1-q5-h4:2-d96-p32-kv70-table8x-sliced-poison.tails",
    ),
    "page stride from the token's, packed": (
        1,
        "decode-noncausal-bf16-b1-q1-h2:2-d64-p16-kv1-packed-random",
        "decode-noncausal-bf16-b2-q8-h8:2-d128-p16-kv200+77-packed-random",
        "decode-noncausal-fp16-b3-q4-h12:4-d64-p32-kv100+90+80-pages.ascending-packed-needle",
    ),
}
"""By the planted defect: keys of the smallest case, that, and starts."""


def signature_of(name: str) -> Callable[[Check], Signature | None]:
    """How the kernel with that defect fails a check, as a child would say it."""

    def found(check: Check) -> Signature | None:
        case = check.case
        inputs = make(case)
        verdict = DEFECTS[name].verdict(case, inputs, exact(case, inputs))
        if verdict.status is Status.PASS:
            return None
        rows = which_rows(case, verdict.wrong) if verdict.wrong is not None else ""
        return Signature.of({"status": verdict.status, "path": "", "reason": verdict.reason, "rows": rows})

    return found


@pytest.mark.parametrize("name", FAILURES)
def test_every_start_leads_to_the_same_smallest_case(name: str) -> None:
    keys, smallest, *starts = FAILURES[name]
    for start in starts:
        check, fails = Check.parse(start), signature_of(name)
        failure = fails(check)
        assert failure is not None, start
        shrinking = Shrinking(fails)
        assert shrinking.smallest(check, failure).id == smallest
        assert not shrinking.spent
        assert len(shrinking.tried) <= MOST_RUNS
    assert max(Case.parse(smallest).seq_lens) == keys


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"status": "NONFINITE", "path": "unified", "reason": "3 elements are not finite, 2 of them NaN",
          "rows": "with keys"}, "NONFINITE, NaN, in rows with keys, on unified"),
        ({"status": "NONFINITE", "reason": "3 elements are not finite, 0 of them NaN"}, "NONFINITE, infinity"),
        ({"status": "MISMATCH", "path": "extend.mha+kvcache", "reason": "an lse exceeds its error bound"},
         "MISMATCH, lse, on extend.mha+kvcache"),
        ({"status": "MISMATCH", "reason": "an element exceeds its error bound"}, "MISMATCH, output"),
    ],
)  # fmt: skip
def test_a_signature_in_words(result: dict[str, str], said: str) -> None:
    assert str(Signature.of(result)) == said


MIXED = "mixed-causal-bf16-b3-q8+40+33-h4:2-d128-p32-kv90+150+33-w20:inf-t8-packed-needle"


@pytest.mark.parametrize(
    ("kind", "smallest", "starts"),
    [
        ("decode", "decode-causal-bf16-b1-q1-h1:1-d64-p16-kv1-contiguous-random",
         [MIXED, "decode-causal-fp16-b2-q5-h4:4-d96-p64-kv700+20-max4096-sliced-large"]),
        ("extend", "extend-causal-bf16-b1-q20-h1:1-d64-p16-kv32-t1-contiguous-random",
         [MIXED, "extend-causal-fp16-b2-q40+33-h4:2-d64-p16-kv700+90-cache.e4m3fn-descale.seq-t8-sliced-random"]),
        ("prefill", "prefill-causal-bf16-b1-q20-h1:1-d64-p16-kv20-t1-contiguous-random",
         [MIXED, "prefill-causal-fp16-b2-q70+33-h6:1-d64-p16-kv70+33-alibi-t1-packed-needle"]),
    ],
)  # fmt: skip
def test_of_a_mixed_batch_what_fails_is_left(kind: str, smallest: str, starts: list[str]) -> None:
    failure = Signature("MISMATCH", frozenset(), "output", "with keys")
    for start in starts:
        shrinking = Shrinking(lambda check: failure if kind in check.case.kinds else None)
        assert shrinking.smallest(Check.parse(start), failure).id == smallest
        assert not shrinking.spent


def test_another_failure_is_not_followed() -> None:
    """A smaller case that fails in another way is not the failure that somebody asked about."""
    start = Check.parse("decode-noncausal-bf16-b2-q8-h8:2-d128-p16-kv200+77-packed-random")
    failure = Signature("MISMATCH", frozenset(["kvcache"]), "output", "with keys")

    def found(check: Check) -> Signature:
        other = Signature("NONFINITE", frozenset(["kvcache"]), "NaN", "with keys")
        return failure if check.case.batch > 1 else other

    smallest = Shrinking(found).smallest(start, failure)
    assert smallest.case.batch == 2
    assert rank(smallest.case) < rank(start.case)


def test_runs_are_bounded() -> None:
    start = Check.parse("decode-noncausal-bf16-b2-q8-h8:2-d128-p16-kv200+77-packed-random")
    shrinking = Shrinking(lambda _: None, most=5)
    assert shrinking.smallest(start, Signature("MISMATCH", frozenset(), "output")).id == start.id
    assert (shrinking.spent, len(shrinking.tried)) == (True, 5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"path": "unified"}, {"path": "kvcache+unified"}, True),
        ({"path": "kvcache"}, {"path": "unified"}, False),
        ({"reason": "an element exceeds its error bound"}, {"reason": "a row has more error"}, True),
        ({"reason": "an lse exceeds its error bound"}, {"reason": "an element exceeds its error bound"}, False),
        ({"rows": "with keys"}, {"rows": "without a key"}, False),
        ({"status": "ERROR", "reason": "E: block 48 (a/b.py:12 in f)"},
         {"status": "ERROR", "reason": "E: block 64 (a/c.py:9 in g)"}, True),
        ({"status": "ERROR", "reason": "E: one (a/b.py:12 in f)"}, {"status": "ERROR", "reason": "E: two"}, False),
        ({"status": "NONFINITE", "reason": "9 elements (1%) are not finite, 9 of them NaN"},
         {"status": "NONFINITE", "reason": "9 elements (1%) are not finite, 0 of them NaN"}, False),
    ],
)  # fmt: skip
def test_what_makes_two_failures_the_same(one: dict[str, str], other: dict[str, str], same: bool) -> None:
    first, second = (Signature.of({"status": "MISMATCH", **result}) for result in (one, other))
    assert first.is_same(second) is same


def test_a_check_that_passes_is_refused_and_a_failing_one_is_shrunk(command: Callable[..., Done]) -> None:
    case = "decode-noncausal-bf16-b2-q4-h4:2-d64-p16-kv37+20-packed-random"
    done = command("shrink", case, "--backend", "torch", "--target", "cpu")
    assert done.code == 2, done.printed
    assert f"with torch the check passes, so that there is nothing to shrink: {case}" in done.err
    declined = command("shrink", case.replace("kv37+20", "kv37+20-sinks"), "--backend", "torch", "--target", "cpu")
    assert (declined.code, declined.out) == (2, "")
    assert "with torch the check is declined, so that there is nothing to shrink" in declined.err
    done = command("shrink", case, "--backend", "tests.harness.answers:wrong", "--target", "cpu")
    assert done.code == 0, done.printed
    assert "MISMATCH" in done.out.splitlines()[1]
    assert "b1-q1-h1:1-d64-p16-kv1-contiguous-random" in done.out
    assert "repro   python -m conformance run" in done.out
