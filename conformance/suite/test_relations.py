"""Every relation of the tier: two answers of the backend, compared with each other."""

from collections.abc import Callable

from conformance.check import Check


def test_holds(related: Check, conform: Callable[[Check], None]) -> None:
    conform(related)
