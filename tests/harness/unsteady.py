"""A kernel whose results depend on when it is called, each within its error bound: only a repetition tells."""

from itertools import count

from conformance.backends import Answer
from conformance.case import Case
from conformance.inputs import Inputs
from tests.harness.flash import Flash

_calls = count(1)


def attend(case: Case, inputs: Inputs) -> Answer:
    """As a kernel that adds its splits up in the order in which they end: every call cuts the keys elsewhere."""
    kernel = Flash(tile=16, splits=1 + next(_calls) % 4)
    return Answer(*kernel(case, inputs), path="unsteady", profile=kernel.profile(case))
