"""Building what one case launches, for a GPU that is not there: no kernel runs, and no number is judged."""

from dataclasses import replace
from time import perf_counter

from conformance.backends import Backend
from conformance.case import Case
from conformance.execute import verdict_on
from conformance.inputs import blank
from conformance.judge import Verdict
from conformance.status import Status

NOTHING_LAUNCHED = "the backend launched no Triton kernel, so that there was nothing to build"


def build(case: Case, backend: Backend) -> Verdict:
    """PASS if everything that a case launches builds and fits, on the active compile target.

    What the backend, or the compiler, raises becomes a status, never an exception. `kernels` has what was built, each
    specialisation once and in the order of launches: under autotuning, one for each configuration that was tried.
    """
    from conformance.targets import compiled_launch

    started = perf_counter()
    with compiled_launch.launched() as kernels:
        try:
            path = backend.answer(case, blank(case)).path
            verdict = Verdict(Status.PASS, path=path) if kernels else Verdict(Status.ERROR, NOTHING_LAUNCHED, path=path)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a compiler may raise anything, SystemExit included
            verdict = _verdict_on(error)
        return replace(verdict, seconds=perf_counter() - started, kernels=tuple(kernels.values()))


def _verdict_on(error: BaseException) -> Verdict:
    """What an error means, with what is known of the launch it came from; a launch cannot decline a case."""
    verdict, notes = verdict_on(error), getattr(error, "__notes__", ())
    if notes and verdict.status is Status.UNSUPPORTED:
        verdict = replace(verdict, status=Status.ERROR)
    return replace(verdict, reason="; ".join((verdict.reason, *notes)))
