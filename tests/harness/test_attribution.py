"""A wrong output is attributed to what made it wrong, and one that is merely noisy to nothing."""

from dataclasses import replace

import pytest
import torch

from benchmarks.attribution import just_outside
from conformance.case import Case
from conformance.judge import judge
from conformance.status import Status
from conformance.triage.attribution import Explanation, attribute
from conformance.triage.causes import TABLE, heads, masks
from tests.harness.correct import CORRECT
from tests.harness.defects import DEFECTS
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


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("rounding P, tiles of 16, split in 3", "decode-noncausal-bf16-b2-q16-h2:1-d64-p8-kv5+7-contiguous-random"),
        (
            "P in float32 and q rounded, tiles of 64, split in 8",
            "extend-causal-bf16-b2-q40+33-h4:2-d64-p16-kv150+90-w20:inf-alibi-t8-packed-random",
        ),
        ("P in float32, tiles of 128", "decode-causal-bf16-b1-q1-h4:2-d80-p128-kv600-contiguous-poison.tails"),
    ],
)
def test_simulated_rounding_explains_no_noise(name: str, case: str) -> None:
    """A third of the error is what the kernel may round, which whatever simulates that takes away; or most of it is
    that of one element, which is tiny."""
    some = Case.parse(case)
    inputs, want = problem(some)
    kernel = CORRECT[name]
    profile = kernel.profile(some)
    spoiled = just_outside(some, want, kernel(some, inputs)[0], profile)
    assert spoiled is not None
    assert attribute(some, inputs, want, spoiled, None, profile).names == ()


@pytest.mark.parametrize(
    ("defect", "case", "named"),
    [
        # both sides of a window of 0 keys
        ("window one key short on the left", "decode-noncausal-bf16-b2-q4-h2:1-d32-p8-kv50+17-w0:5-packed-random",
         "window left - 1"),
        ("window one key short on the right", "decode-noncausal-bf16-b2-q4-h2:1-d32-p8-kv50+17-w5:0-packed-random",
         "window right - 1"),
        # rounding of which single numbers fall to the other side
        ("output through bf16", "decode-causal-fp16-b2-q17-h4:1-d64-p32-kv160+161-packed-random",
         "output through bf16"),
        # a weight that a wrong maximum makes tiny loses digits besides
        ("one maximum for all heads", "decode-noncausal-fp16-b2-q8-h4:2-d64-p64-kv63+65-contiguous-needle",
         "one maximum for all heads"),
    ],
)  # fmt: skip
def test_what_is_wrong_by_a_hair_or_beside_digits_that_are_lost_is_named(defect: str, case: str, named: str) -> None:
    some = Case.parse(case)
    inputs, want = problem(some)
    out, lse, profile = DEFECTS[defect].answer(some, inputs)
    assert attribute(some, inputs, want, out, lse, profile).names[0] == named


def test_causes_whose_answers_differ_by_less_than_noise_are_told_together() -> None:
    """A needle outweighs whatever else is read: whose length was taken, no output of this case says."""
    some = Case.parse("decode-noncausal-bf16-b2-q16-h8:2-d128-p16-kv100+260-packed-needle")
    inputs, want = problem(some)
    out, lse, profile = DEFECTS["longest of the batch for all"].answer(some, inputs)
    found = attribute(some, inputs, want, out, lse, profile)
    assert {"length of the longest", "length of the table"} <= set(found.names)
    assert len(found.explains) == 1


def test_what_explains_a_part_is_named_with_its_share_and_explains_nothing() -> None:
    """Two heads as if there were no mask, two as nothing would have them."""
    inputs, want = problem(CASE)
    out = torch.randn(want.out.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    out[:, :2] = Flash(causal=lambda _: False)(CASE, inputs)[0][:, :2]
    found = attribute(CASE, inputs, want, out, table=masks.TABLE)
    assert not found.explains
    assert found.partly[0].name == "not causal"
    assert 0.4 < found.partly[0].share < 0.6


def test_without_time_nothing_is_asked_and_that_is_said() -> None:
    inputs, want = problem(CASE)
    found = attribute(CASE, inputs, want, torch.zeros(5 * 2, 4, 32).bfloat16(), seconds=0.0)
    assert (found.asked, found.left_out, found.names) == (0, len(TABLE), ())


def test_rounding_is_not_asked_about_where_the_error_is_none_of_rounding() -> None:
    inputs, want = problem(CASE)
    right = want.out.bfloat16()
    assert attribute(CASE, inputs, want, right.flip(0), pairs=False).asked == sum(not cause.rounds for cause in TABLE)
    assert attribute(CASE, inputs, want, right * 1.02, pairs=False).asked == len(TABLE)


@pytest.mark.parametrize(
    ("left", "share", "worse", "nearly"),
    [
        (1e-9, 0.999, 1.0, False),  # where NaN is outweighs all else, and what was right is wrong
        (1e-9, 0.999, 0.04, True),
        (1e-9, 0.4, 0.0, False),
        (0.01, 0.999, 0.0, False),
    ],
)
def test_what_nearly_explains_leaves_what_is_right_as_it_is(
    left: float, share: float, worse: float, nearly: bool
) -> None:
    assert Explanation((masks.TABLE[0],), ("",), share, worse, left, (0,), whole=False).nearly is nearly
