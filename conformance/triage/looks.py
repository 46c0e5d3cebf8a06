"""What a failing case of a run looks like, as far as that can be said in passing."""

from time import perf_counter

from conformance.backends import Answer
from conformance.case import Case
from conformance.execute import Prepared

SECONDS_A_CASE = 2.0
SECONDS_A_PROCESS = 30.0
"""A run in which everything fails is not held up: `explain` has the time."""

_spent = [0.0]


def looks_of(case: Case, prepared: Prepared, answer: Answer) -> str:
    """The line of a wrong answer, or "" where no single mistake explains it, or there is no time left to ask."""
    if _spent[0] >= SECONDS_A_PROCESS:
        return ""
    from conformance.triage.attribution import attribute
    from conformance.triage.shown import looks

    began = perf_counter()
    try:
        found = attribute(
            case, prepared.inputs, prepared.want, answer.out, answer.lse, answer.profile,
            seconds=SECONDS_A_CASE, pairs=False,
        )  # fmt: skip
        return looks(case, found)
    except Exception as error:  # a defect here must not change a verdict
        return f"like nothing that could be asked: {type(error).__name__}: {error} (a defect of the suite)"
    finally:
        _spent[0] += perf_counter() - began
