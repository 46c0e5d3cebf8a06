"""Every case of the tier: the backend's answer, judged against the oracle."""

from collections.abc import Callable

from conformance.case import Case


def test_conforms(case: Case, conform: Callable[[Case], None]) -> None:
    conform(case)
