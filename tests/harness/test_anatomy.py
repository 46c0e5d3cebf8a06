"""The anatomy of a wrong output: which elements, and by what rule wrong rows differ from right ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from conformance.case import Case
from conformance.triage.anatomy import Anatomy, anatomy
from conformance.triage.output import WrongOutput
from conformance.triage.question import Question
from tests.harness.flash import Flash
from tests.harness.judged import problem
from tests.harness.missteps import up_to

PLAIN = Case.parse("decode-noncausal-bf16-b3-q5-h4:2-d32-p16-kv70+37+64-packed-random")
NEEDLE = Case.parse("decode-noncausal-bf16-b2-q8-h8:2-d64-p16-kv300+200-packed-needle")
BLIND = Case.parse("decode-causal-bf16-b2-q8-h2:1-d16-p4-kv3+20-packed-random")


def spoiled(case: Case, spoil: Callable[[Tensor], object]) -> Anatomy:
    """Of the right output, once something was done to it."""
    inputs, want = problem(case)
    out = want.out.bfloat16()
    spoil(out)
    return anatomy(WrongOutput(case, out, None, None, want), Question.of(case, inputs))


def add(*at: Any) -> Callable[[Tensor], object]:
    return lambda out: out.__setitem__(at, out[at] + 1)


def test_a_right_output_has_no_wrong_part() -> None:
    found = spoiled(PLAIN, lambda out: None)
    assert found.elements.startswith("0 of 1920 elements (0.0%)")
    assert found.rows.startswith("no row by itself")
    assert not found.rules


def test_rows_columns_and_what_is_no_number() -> None:
    found = spoiled(PLAIN, lambda out: out[5:10, 2, 8:].fill_(torch.nan))
    assert found.elements == "120 of 1920 elements (6.2%), 120 of them NaN"
    assert found.columns == "dims 8-31 of 32"
    assert found.rows.startswith("sequence 1 of 3; every query; head 2 of 4; ")
    assert found.rules == ()  # one head of one sequence is no rule on either


def test_a_rule_on_sequences_queries_or_heads() -> None:
    assert spoiled(PLAIN, add(slice(0, 5))).rules[0] == "sequences of 70 and more keys"
    assert "queries numbered 3 and more" in spoiled(PLAIN, add([3, 4, 8, 9, 13, 14])).rules
    assert "query heads numbered less than 2" in spoiled(PLAIN, add(slice(None), slice(0, 2))).rules


def test_sequences_whose_last_page_is_not_full() -> None:
    assert "sequences whose last page is not full" in spoiled(PLAIN, add(slice(0, 10))).rules


def test_rows_that_see_no_key() -> None:
    assert "rows that see no key" in spoiled(BLIND, add(slice(0, 5))).rules


def test_keys_from_which_on_needles_are_lost() -> None:
    """The needle of a row tells which of the keys it is about: those past 128 are not read."""
    inputs, want = problem(NEEDLE)
    out = Flash(keys=up_to(lambda case, n: min(n, 128)))(NEEDLE, inputs)[0]
    found = anatomy(WrongOutput(NEEDLE, out, None, None, want), Question.of(NEEDLE, inputs))
    assert "rows about keys numbered 128 and more" in found.rules
