"""The planted defects and the causes that are right for them; `benchmarks/attribution.py` tries them all."""

import pytest

from conformance.case import Case
from conformance.status import Status
from conformance.triage.attribution import attribute
from conformance.triage.causes import BY_NAME, TABLE
from tests.harness.defects import DEFECTS
from tests.harness.judged import problem
from tests.harness.right_causes import RIGHT_CAUSES


def test_every_defect_has_its_right_cause_declared_and_every_cause_exists() -> None:
    assert RIGHT_CAUSES.keys() == DEFECTS.keys()
    assert {cause for causes in RIGHT_CAUSES.values() for cause in causes} <= BY_NAME.keys()
    without_output = [name for name, defect in DEFECTS.items() if defect.status is Status.ERROR]
    assert {name for name, causes in RIGHT_CAUSES.items() if not causes} == {"one NaN", *without_output}


def test_names_and_words_are_each_a_causes_own() -> None:
    assert len(BY_NAME) == len(TABLE) > 100
    for cause in TABLE:
        assert (cause.change is None) is not (cause.stored is None), cause.name
        assert cause.says
        assert not cause.says.endswith(".")


SMALL = "decode-{}-bf16-b2-q5-h4:2-d32-p8-kv70+37-{}packed-random"


@pytest.mark.parametrize(
    ("defect", "mode", "features"),
    [
        ("diagonal aligned top left", "causal", ""),
        ("window one key too far left", "causal", "w20:inf-"),
        ("last split lost", "noncausal", ""),
        ("page left out", "noncausal", ""),
        ("page stride from the token's, packed", "noncausal", ""),
        ("query heads interleaved over KV heads", "causal", ""),
        ("scale 2% off", "noncausal", ""),
        ("splits merged without their weights", "noncausal", ""),
        ("weights in fp8", "noncausal", ""),
        ("lse in base 2", "causal", ""),
        ("last row not written", "causal", ""),
        ("one NaN", "causal", ""),
    ],
)
def test_the_right_cause_is_named(defect: str, mode: str, features: str) -> None:
    case = Case.parse(SMALL.format(mode, features))
    inputs, want = problem(case)
    out, lse, profile = DEFECTS[defect].answer(case, inputs)
    found = attribute(case, inputs, want, out, lse, profile, pairs=False)
    assert set(RIGHT_CAUSES[defect]) <= set(found.names), found
    assert bool(found.names) == bool(RIGHT_CAUSES[defect])
