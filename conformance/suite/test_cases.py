"""Every case of the tier: the backend's answer, judged against the oracle."""

from collections.abc import Callable

from conformance.check import Check


def test_conforms(case: Check, conform: Callable[[Check], None]) -> None:
    conform(case)
