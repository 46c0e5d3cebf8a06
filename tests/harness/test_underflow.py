"""Numbers below float32's smallest normal one are flushed to zero by GPUs: no defect, and allowed for."""

import pytest
import torch

from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import make
from conformance.judge import judge
from conformance.status import Status

SMALLEST = torch.finfo(torch.float32).smallest_normal

CASE = Case.parse("decode-causal-bf16-b2-q8-h16:2-d64-p16-kv40+33-sinks-packed-shifted")
"""Where the shift is about -87, a sink has nearly all the weight, and what is left for V is no normal number."""


def test_an_output_that_is_flushed_passes() -> None:
    want = exact(CASE, make(CASE))
    flushed = (want.out != 0) & (want.out.abs() < SMALLEST)
    assert bool((flushed & (want.out.abs() > 2.0**-140)).any()), "the case shows nothing"
    verdict = judge(CASE, want, want.out.masked_fill(flushed, 0.0).to(torch.bfloat16))
    assert verdict.status is Status.PASS, verdict


@pytest.mark.parametrize("times", [16.0, 1e6])
def test_a_normal_output_is_not_excused(times: float) -> None:
    want = exact(CASE, make(CASE))
    out = want.out.to(torch.bfloat16)
    at = int(((want.out.abs() > times * SMALLEST) & (want.out.abs() < 1e3 * times * SMALLEST)).flatten().nonzero()[0])
    out.view(-1)[at] = 0
    verdict = judge(CASE, want, out)
    assert verdict.status is Status.MISMATCH
