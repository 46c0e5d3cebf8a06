"""A wrong output is attributed to what made it wrong, and one that is merely noisy to nothing."""

from dataclasses import replace

import pytest
import torch

from conformance.case import Case
from conformance.judge import judge
from conformance.status import Status
from conformance.triage.attribution import attribute
from conformance.triage.causes import heads, masks
from tests.harness.correct import CORRECT
from tests.harness.flash import Flash
from tests.harness.judged import problem

CASE = Case.parse("decode-causal-bf16-b2-q5-h4:2-d32-p16-kv70+37-packed-random")


def test_a_question_that_is_not_the_oracles_is_refused() -> None:
    """Nothing that follows could be trusted: another oracle than the one that judged."""
    inputs, want = problem(CASE)
    other = replace(want, out=want.out * 1.001)
    with pytest.raises(ValueError, match="does not give the oracle's answer"):
        attribute(CASE, inputs, other, torch.zeros(5 * 2, 4, 32).bfloat16())


def test_one_sequence_that_is_wrong_is_said_to_be_the_one() -> None:
    inputs, want = problem(CASE)
    out = want.out.bfloat16()
    out[5:] = Flash(causal=lambda _: False)(CASE, inputs)[0][5:]
    found = attribute(CASE, inputs, want, out, table=masks.TABLE)
    assert found.names == ("not causal",)
    assert found.explains[0].sequences == (1,)
    assert found.explains[0].whole


def test_two_mistakes_are_found_together() -> None:
    inputs, want = problem(CASE)
    out, _ = Flash(causal=lambda _: False, kv_head=lambda case: torch.arange(4) % 2)(CASE, inputs)
    found = attribute(CASE, inputs, want, out, table=(*masks.TABLE, *heads.TABLE))
    assert set(found.names) & {"not causal and GQA interleaved", "GQA interleaved and not causal"}
    assert found.explains[0].whole


def test_what_nothing_explains_is_attributed_to_nothing() -> None:
    inputs, want = problem(CASE)
    out = torch.randn(want.out.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = attribute(CASE, inputs, want, out)
    assert not found.explains
    assert not found.partly


@pytest.mark.parametrize("name", CORRECT)
def test_noise_just_outside_the_budget_has_no_cause(name: str) -> None:
    """A correct kernel's output with noise that grows until the judge fails it."""
    inputs, want = problem(CASE)
    kernel = CORRECT[name]
    right, profile = kernel(CASE, inputs)[0].double(), kernel.profile(CASE)
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * right.std()
    size = 1e-6
    while judge(CASE, want, (right + size * noise).bfloat16(), None, profile).status is Status.PASS:
        size *= 1.1
    found = attribute(CASE, inputs, want, (right + size * noise).bfloat16(), None, profile, pairs=False)
    assert not found.explains
