"""Expectations: declared gaps, strict in both directions.

A check that fails as an entry says is an expected gap and fails no run. One that fails otherwise, or no longer fails,
makes the run fail: an entry is true, or it is deleted.
"""

from conformance.expectations.applied import Applied, applying, asked_for, of_every_tier, refuse_idle
from conformance.expectations.entries import BadExpectations, Expectation, committed, read

__all__ = [
    "Applied",
    "BadExpectations",
    "Expectation",
    "applying",
    "asked_for",
    "committed",
    "of_every_tier",
    "read",
    "refuse_idle",
]
