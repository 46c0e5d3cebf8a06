"""Random cases: each the same for ever, and every field of a case among them."""

import dataclasses

import pytest

from benchmarks.random_cases import LONGEST, draw
from conformance.case import LAYOUTS, PAGE_ORDERS, REGIMES, Case
from conformance.rounding import CACHE_DTYPES, DTYPES

DRAWN = [draw(seed=0, number=number) for number in range(600)]


def test_a_number_names_a_case() -> None:
    assert [draw(seed=0, number=number) for number in (7, 3)] == [DRAWN[7], DRAWN[3]]
    assert draw(seed=1, number=7) != DRAWN[7]
    assert len(set(DRAWN)) == len(DRAWN)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("causal", {False, True}),
        ("dtype", set(DTYPES)),
        ("layout", set(LAYOUTS)),
        ("regime", set(REGIMES)),
        ("page_order", set(PAGE_ORDERS) - {"huge"}),
        ("cache_dtype", {"", *CACHE_DTYPES}),
        ("alibi", {False, True}),
        ("sinks", {False, True}),
        ("fused_q", {False, True}),
    ],
)
def test_every_value_is_drawn(field: str, values: set[object]) -> None:
    assert {getattr(case, field) for case in DRAWN} == values


def test_no_field_is_left_at_one_value() -> None:
    for field in dataclasses.fields(Case):
        assert len({getattr(case, field.name) for case in DRAWN}) > 1, field.name


def test_lengths_are_of_every_kind() -> None:
    assert any(len(set(case.query_lens)) > 1 for case in DRAWN)
    assert any(0 in case.query_lens for case in DRAWN)
    assert any(0 in case.seq_lens for case in DRAWN)
    assert any(m > n > 0 for case in DRAWN for m, n in zip(case.query_lens, case.seq_lens, strict=True))
    assert max(max(case.seq_lens) for case in DRAWN) > LONGEST // 2
