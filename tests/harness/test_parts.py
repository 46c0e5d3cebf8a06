"""Steps that are answered in parts: kernels that store parts in 16 bits keep the budget, and no wrong one does."""

from dataclasses import replace

import pytest

from conformance.case import Case
from conformance.execute import exact
from conformance.inputs import make
from conformance.judge import judge
from conformance.status import Status
from tests.harness.parted import Parted

KINDS = ("random", "needle", "large", "shifted", "constant", "onehot")
SHAPES = (
    "extend-{}-{}-b2-q40+33-h4:2-d64-p16-kv150+333-t8-chunk64-packed-{}",
    "mixed-{}-{}-b4-q8+20+35+33-h6:2-d32-p16-kv100+150+36+33-sinks-t8-packed-{}",
    "extend-{}-{}-b1-q9-h4:4-d128-p64-kv700-winf:16-t8-chunk128-packed-{}",
)
CASES = [
    Case.parse(shape.format(mode, dtype, regime))
    for shape in SHAPES
    for mode in ("causal", "noncausal")
    for dtype in ("bf16", "fp16")
    for regime in KINDS
    if (mode, "winf" in shape) != ("causal", True)
]
one_a_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


@one_a_case
@pytest.mark.parametrize("rounds_running", [False, True], ids=["running in float32", "running rounded"])
def test_a_correct_kernel_passes(case: Case, rounds_running: bool) -> None:
    kernel, inputs = Parted(rounds_running), make(case)
    verdict = judge(case, exact(case, inputs), *kernel(case, inputs), kernel.profile(case))
    assert verdict.status is Status.PASS, verdict


@pytest.mark.parametrize("case", [case for case in CASES if case.regime in ("random", "needle")], ids=lambda c: c.id)
def test_parts_that_are_not_weighed_fail(case: Case) -> None:
    kernel, inputs = Parted(weighs=False), make(case)
    assert judge(case, exact(case, inputs), *kernel(case, inputs), kernel.profile(case)).status is Status.MISMATCH


def test_what_parts_round_needs_declaring() -> None:
    """Without `parts` the noise is above what rounding makes: the declaration is what allows it."""
    case = Case.parse("extend-noncausal-bf16-b2-q40+33-h8:2-d64-p16-kv1500+1333-t8-chunk64-packed-random")
    kernel, inputs = Parted(rounds_running=True), make(case)
    want, answer = exact(case, inputs), kernel(case, inputs)
    declared = judge(case, want, *answer, kernel.profile(case))
    silent = judge(case, want, *answer, replace(kernel.profile(case), parts=None, merged=None))
    assert declared.status is Status.PASS
    assert declared.figures is not None
    assert 0.7 < declared.figures.noise < 1.1
    assert silent.status is Status.MISMATCH
