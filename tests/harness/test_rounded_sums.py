"""Kernels that multiply and add in 16 bits: their budget is kept by a kernel that rounds so, and is needed by it."""

from dataclasses import replace

import pytest
import torch

from conformance.case import Case
from conformance.judge import Figures, judge
from conformance.rounding import RoundingProfile
from conformance.status import Status
from tests.harness.judged import problem
from tests.harness.scalar_kernel import Scalar, by_halves

KERNELS = {
    "products": Scalar(products=True),
    "score_sum": Scalar(score_sum=True),
    "weight_sum": Scalar(weight_sum=True),
    "split": Scalar(split=64),
}
SHAPES = ("b2-q1-h8:2-d64-p16-kv300+77", "b1-q1-h8:4-d16-p256-kv700", "b2-q1-h4:4-d256-p64-kv500+640")
CASES = [
    Case.parse(f"decode-causal-{dtype}-{shape}-packed-{regime}")
    for shape in SHAPES
    for dtype in ("bf16", "fp16")
    for regime in ("random", "needle", "large", "shifted", "constant", "onehot")
]
MANY_ROWS = Case.parse("decode-causal-bf16-b6-q1-h32:8-d64-p256-kv1000+900+800+700+600+500-packed-random")


def noise(kernel: Scalar, case: Case, profile: RoundingProfile) -> tuple[Status, Figures]:
    inputs, want = problem(case)
    verdict = judge(case, want, kernel(case, inputs), None, profile)
    assert verdict.figures is not None
    return verdict.status, verdict.figures


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_correct_kernel_passes(kernel: Scalar, case: Case) -> None:
    status, figures = noise(kernel, case, kernel.profile(case))
    assert status is Status.PASS, figures


@pytest.mark.parametrize(
    ("field", "least"), [("products", 0.8), ("score_sum", 0.6), ("weight_sum", 0.7), ("split", 0.6)]
)
def test_what_a_kernel_rounds_needs_declaring_and_is_about_what_is_allowed(field: str, least: float) -> None:
    kernel = KERNELS[field]
    status, figures = noise(kernel, MANY_ROWS, kernel.profile(MANY_ROWS))
    assert status is Status.PASS
    assert least < figures.noise < 1.1
    _, silent = noise(kernel, MANY_ROWS, replace(kernel.profile(MANY_ROWS), **{field: None}))
    assert silent.noise > 1.15 * figures.noise


def test_halves_are_added_as_they_are_rounded() -> None:
    """Four terms of which the two last are lost one by one: 256 + 1 is 256 in bfloat16, and 1 + 1 is 2."""
    terms = torch.tensor([256.0, 1.0, 0.0, 1.0], dtype=torch.bfloat16)
    assert float(by_halves(terms)) == 258.0
