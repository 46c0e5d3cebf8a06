"""What a row claims: a feature works, or not, and what is another feature's concern is named and breaks nothing."""

from __future__ import annotations

import pytest

from conformance.matrix.cells import Came, Cell, State
from conformance.qualify.claims import claimed

WORDS = {
    "p": Came("p", State.PASS, "PASS"),
    "r": Came("r", State.REFUSED, "UNSUPPORTED"),
    "n": Came("n", State.NOT_RUN, "NOT RUN"),
    "u": Came("u", State.UNEXPLAINED, "MISMATCH"),
    "f": Came("f", State.FINDING, "MISMATCH"),
    "g": Came("g", State.GAP, "ERROR"),
    "S": Came("S", State.FINDING, "NONFINITE", about=("short contexts",)),
    "B": Came("B", State.FINDING, "MISMATCH", about=("ALiBi", "sinks")),
    "I": Came("I", State.FINDING, "MISMATCH", about=("idle sequence",)),
    "N": Came("N", State.FINDING, "NONFINITE", about=("unused memory holds NaN",)),
}
"""A check that came to something, by a letter; capitals fail for what some features are to blame for."""


def said(feature: str, letters: str) -> str:
    """Of a row whose cells are these, a word of letters for each version."""
    cells = [Cell(tuple(WORDS[letter] for letter in word)) for word in letters.split()]
    return claimed(feature, [f"v{at}" for at in range(len(cells))], cells)


@pytest.mark.parametrize(
    ("letters", "claim"),
    [
        ("pp pp", "throughout"),
        ("pS pS", "throughout, but for short contexts"),
        ("pS pp", "throughout, but for short contexts (v0)"),
        ("pp pS pS", "throughout, but for short contexts (since v1)"),
        ("pB pB", "throughout, but for ALiBi with sinks"),
        ("pSI pSI", "throughout, but for short contexts; idle sequence"),
        ("pSII pSII", "throughout, but for idle sequence; short contexts"),
        ("pSBI pSBI", "throughout, but for short contexts; ALiBi with sinks; idle sequence"),
        ("pSBIN pSBIN", "throughout, but for short contexts; ALiBi with sinks; idle sequence; 1 more"),
        ("uS pS", "since v1, but for short contexts"),
        ("uS pp", "since v1"),
        ("pS uS pS", "broken in v1, but for short contexts"),
        ("pS u pp", "broken in v1, but for short contexts (v0)"),
        ("pS n pS", "throughout (v1 not run), but for short contexts"),
        ("pS nS pp", "throughout (v1 not run), but for short contexts (v0)"),
    ],
)
def test_what_is_another_features_concern_breaks_nothing_and_is_named(letters: str, claim: str) -> None:
    assert said("bf16", letters) == claim


@pytest.mark.parametrize(
    ("feature", "letters", "claim"),
    [
        ("short contexts", "pS pS", "broken throughout"),
        ("ALiBi", "pB pB", "throughout, but for sinks"),
        ("sinks", "pB pB", "throughout, but for ALiBi"),
        ("bf16", "pu pu", "broken throughout"),  # nothing explains it
        ("bf16", "pf pf", "broken throughout"),  # a finding that is about every feature of its checks
        ("bf16", "pg pg", "broken throughout"),
        ("bf16", "S S", "broken throughout"),  # nothing is left that works
        ("bf16", "rS pS", "since v1, but for short contexts"),
        ("bf16", "r r", "refused throughout"),
        ("bf16", "pS", ""),
    ],
)
def test_what_fails_otherwise_is_broken(feature: str, letters: str, claim: str) -> None:
    assert said(feature, letters) == claim


def test_a_span_is_of_versions_that_are_known() -> None:
    assert said("bf16", "n pS pS n") == "throughout, but for short contexts"


@pytest.mark.parametrize("letter", WORDS)
def test_a_row_of_one_version_claims_nothing(letter: str) -> None:
    assert said("bf16", letter) == ""
