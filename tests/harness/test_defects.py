"""Kernels with one defect each: the smoke tier alone fails every one."""

import pytest

from conformance.case import Case
from conformance.manifest import cases
from tests.harness.defects import DEFECTS
from tests.harness.judged import problem

SMOKE = cases("smoke")


@pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(name, mode, id=f"{name}, {mode}") for name, defect in DEFECTS.items() for mode in defect.modes],
)
def test_the_smoke_tier_fails_every_defect_in_every_mode(name: str, mode: str) -> None:
    """Causal and non-causal cases go to different kernels: each kernel's cases must find the defect on their own."""
    defect = DEFECTS[name]
    for case in [Case.parse(defect.seen_by.format(mode))] if defect.seen_by else SMOKE:
        if case.causal == (mode == "causal"):
            verdict = defect.verdict(case, *problem(case))
            if not verdict.status.conformant:
                assert verdict.status is defect.status, f"{case.id}: {verdict}"
                return
    pytest.fail(f"no {mode} case of the smoke tier fails a kernel with this defect: {name}")


def test_only_a_cache_of_2_to_the_31_elements_is_beyond_the_smoke_tier() -> None:
    """It is too large for a first look at a GPU."""
    assert [name for name, defect in DEFECTS.items() if defect.seen_by] == ["element offsets of 31 bits"]
