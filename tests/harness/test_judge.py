"""The judge: its checks, in their order, and each figure against a figure of its own."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conformance.budget import error_bound, noise_variance
from conformance.case import Case
from conformance.execute import exact
from conformance.judge import ROW_NOISE_LIMIT, judge
from conformance.manifest import cases
from conformance.rounding import RoundingProfile
from conformance.status import Status
from tests.harness.flash import Flash
from tests.harness.judged import BLIND, PLAIN, judged, problem, right, spoiled


def test_the_stored_exact_answer_passes() -> None:
    for case in (PLAIN, BLIND):
        assert judged(case, *right(case)).status is Status.PASS
        assert judged(case, right(case)[0]).status is Status.PASS


MALFORMED: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]], str]] = {
    "shape": (lambda out, lse: (out[None], None), "output has shape [1, 12, 4, 16], not [12, 4, 16]"),
    "padded rows": (lambda out, lse: (out.repeat(2, 1, 1), None), "output has shape [24, 4, 16], not [12, 4, 16]"),
    "flat heads": (lambda out, lse: (out.flatten(1), None), "output has shape [12, 64], not [12, 4, 16]"),
    "dtype": (lambda out, lse: (out.float(), None), "output is float32, not bf16"),
    "other half": (lambda out, lse: (out.half(), None), "output is float16, not bf16"),
    "lse by head": (lambda out, lse: (out, lse.T), "lse has shape [4, 12], not [12, 4]"),
    "lse dtype": (lambda out, lse: (out, lse.double()), "lse is float64, not float32"),
    "shape before dtype": (lambda out, lse: (out[1:].float(), lse), "output has shape [11, 4, 16], not [12, 4, 16]"),
    "dtype before NaN": (lambda out, lse: (out.float() * math.nan, None), "output is float32, not bf16"),
    "lse before NaN": (lambda out, lse: (out * math.nan, lse[0]), "lse has shape [4], not [12, 4]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_comes_first(name: str) -> None:
    spoil, reason = MALFORMED[name]
    verdict = judged(PLAIN, *spoil(*right(PLAIN)))
    assert (verdict.status, verdict.reason) == (Status.MALFORMED, reason)
    assert verdict.figures is None


def test_what_is_not_finite_comes_before_what_is_wrong() -> None:
    out, lse = right(PLAIN)
    verdict = judged(PLAIN, spoiled(out * 2, (5, 3, 7), math.nan), lse * 2)
    assert verdict.status is Status.NONFINITE
    assert verdict.worst is not None
    assert (verdict.worst.sequence, verdict.worst.query, verdict.worst.head, verdict.worst.dim) == (1, 1, 3, 7)
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[5, 3]]


def test_infinity_is_told_from_nan() -> None:
    out, _ = right(PLAIN)
    out = spoiled(spoiled(out, (0, 0, 0), math.inf), (0, 0, 1), -math.inf)
    assert judged(PLAIN, out).reason == "2 elements (0.3%) are not finite, 0 of them NaN"
    out[7] = math.nan
    assert judged(PLAIN, out).reason == "66 elements (8.6%) are not finite, 64 of them NaN"


def test_one_wrong_element_is_a_mismatch() -> None:
    out, lse = right(PLAIN)
    verdict = judged(PLAIN, spoiled(out, (11, 0, 15), 9.0), lse)
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "an element exceeds its error bound")
    assert verdict.worst is not None
    assert (verdict.worst.sequence, verdict.worst.query, verdict.worst.head, verdict.worst.dim) == (2, 3, 0, 15)
    assert verdict.worst.got == 9.0
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[11, 0]]


def test_one_element_over_its_bound_is_a_mismatch_in_the_quietest_row() -> None:
    """Among 256 elements one hardly changes the energy of a row."""
    case = Case.parse("decode-noncausal-bf16-b1-q1-h2:2-d256-p16-kv9-contiguous-random")
    want = problem(case)[1]
    out = want.out.to(torch.bfloat16)
    out[0, 1, 77] += 1.5 * error_bound(want, RoundingProfile.flash(case.dtype), case)[0, 1, 77]
    verdict = judged(case, out)
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "an element exceeds its error bound")
    assert verdict.figures is not None
    assert verdict.figures.row_noise < 1
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[0, 1]]


LONG = Case.parse("decode-noncausal-fp16-b1-q2-h8:1-d64-p64-kv4096-contiguous-random")


def noisy(times: Tensor | float) -> Tensor:
    """LONG's output, off by `times` what rounding makes, in a direction that changes from element to element."""
    want = problem(LONG)[1]
    sign = (-1.0) ** torch.arange(want.out.numel()).view(want.out.shape)
    scatter = noise_variance(want, RoundingProfile.flash(LONG.dtype), LONG).sqrt()
    return (want.out + sign * times * scatter).half()


def test_a_row_with_more_error_than_rounding_makes() -> None:
    """Every element is within its bound, which at long contexts is far too generous."""
    times = torch.ones(2, 8, 1, dtype=torch.float64)
    times[1, 5] = 1.2 * ROW_NOISE_LIMIT
    verdict = judged(LONG, noisy(times))
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "a row has more error than rounding makes")
    assert verdict.figures is not None
    assert verdict.figures.bound < 1
    assert verdict.wrong is not None
    assert verdict.wrong.nonzero().tolist() == [[1, 5]]
    assert verdict.worst is not None
    assert (verdict.worst.query, verdict.worst.head) == (1, 5)


def test_a_case_with_more_error_than_rounding_makes() -> None:
    """No row stands out; together they do."""
    verdict = judged(LONG, noisy(3.0))
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "the case has more error than rounding makes")
    assert verdict.figures is not None
    assert verdict.figures.bound < 1
    assert verdict.figures.row_noise < ROW_NOISE_LIMIT
    assert judged(LONG, noisy(0.5)).status is Status.PASS


# -- lse ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0.0, 1e30], ids=str)
def test_only_the_lse_is_wrong(wrong: float) -> None:
    out, lse = right(PLAIN)
    verdict = judged(PLAIN, out, spoiled(lse, (6, 2), wrong))
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, "an lse exceeds its error bound")
    assert verdict.worst is not None
    assert (verdict.worst.sequence, verdict.worst.query, verdict.worst.head, verdict.worst.dim) == (1, 2, 2, None)
    assert verdict.figures is not None
    assert verdict.figures.lse is not None
    assert verdict.figures.lse > 1
    assert verdict.figures.bound < 1


def test_a_row_that_sees_nothing_has_lse_minus_infinity_and_output_0() -> None:
    out, lse = right(BLIND)
    assert torch.equal(lse[:5], torch.full((5, 2), -math.inf))
    assert not out[:5].any()
    for wrong in (0.0, -1e30, math.inf, math.nan):
        assert judged(BLIND, out, spoiled(lse, (4, 1), wrong)).reason == "an lse exceeds its error bound"
    assert judged(BLIND, out, spoiled(lse, (5, 1), -math.inf)).reason == "an lse exceeds its error bound"
    assert judged(BLIND, spoiled(out, (4, 1, 3), 1e-3), lse).reason == "an element exceeds its error bound"


def test_without_the_oracle_sums_there_is_no_verdict() -> None:
    inputs, _ = problem(PLAIN)
    with pytest.raises(ValueError, match="the oracle's rounding sums are needed to judge"):
        judge(PLAIN, exact(PLAIN, inputs, sums=False), right(PLAIN)[0])


FIRST = cases("smoke")[0]


def test_a_looser_declaration_allows_more() -> None:
    inputs, want = problem(FIRST)
    kernel = Flash(rounds_q=True)
    answer = kernel(FIRST, inputs)
    strict = judge(FIRST, want, *answer, RoundingProfile.flash(FIRST.dtype))
    declared = judge(FIRST, want, *answer, kernel.profile(FIRST))
    assert (strict.status, declared.status) == (Status.MISMATCH, Status.PASS)


def test_every_status_but_two_fails_a_run() -> None:
    assert {status for status in Status if status.conformant} == {Status.PASS, Status.UNSUPPORTED}
