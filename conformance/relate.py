"""Running one relation: two calls, and whether their answers agree."""

from dataclasses import replace

from torch import Tensor

from conformance.backends import Answer, Backend
from conformance.budget import allowance
from conformance.case import Case
from conformance.execute import answered, exact, verdict_on
from conformance.inputs import make
from conformance.judge import Verdict, differ, malformed
from conformance.relations import Call, Relation
from conformance.status import Status
from conformance.targets import Target
from reference import Attention

REPEATED = "the first call, repeated with inputs made anew, has another answer too"
CHANGED = "with inputs made anew the first answer comes back, so the first call changed its inputs"


def relate(relation: Relation, case: Case, backend: Backend, target: Target) -> Verdict:
    """The verdict on a relation; what the backend raises becomes a status, never an exception."""
    where = ""
    try:
        calls = first, second = _on(target, *relation.calls(case))
        exacts = [] if relation.bitwise else [exact(call.case, call.inputs) for call in calls]
        where = "in the first call, "
        one, seconds = answered(first.case, first.inputs, backend, target)
        where = "in the second call, "
        two, more_seconds = answered(second.case, second.inputs, backend, target)
        where = ""
        verdict = _compared(calls, [one, two], exacts)
        if verdict.status is Status.MISMATCH and relation.bitwise:
            if not _repeats(first, one, backend, target):
                verdict = replace(verdict, status=Status.NONDETERMINISTIC, reason=f"{verdict.reason}; {REPEATED}")
            elif relation.shares:
                verdict = replace(verdict, reason=f"{verdict.reason}; {CHANGED}")
        path = one.path if one.path == two.path else f"{one.path} and {two.path}"
        return replace(verdict, path=path, seconds=seconds + more_seconds)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a kernel, a compiler or a driver may raise anything, SystemExit included
        verdict = verdict_on(error)
        return verdict if verdict.status is Status.UNSUPPORTED else replace(verdict, reason=where + verdict.reason)


def _compared(calls: list[Call], answers: list[Answer], exacts: list[Attention]) -> Verdict:
    """Judge the second answer by the first: bit for bit, or, given exact answers to both calls, within their bounds."""
    for which, call, answer in zip(("first", "second"), calls, answers, strict=True):
        if reason := malformed(call.case, answer.out, answer.lse):
            return Verdict(Status.MALFORMED, f"in the {which} answer, {reason}")
    (first, second), (one, two) = calls, answers
    allowed = None
    if exacts:  # of which only the sums that rounding scales with are used, never the numbers themselves
        of_one, of_two = (
            allowance(call.case, want, answer.profile)
            for call, want, answer in zip(calls, exacts, answers, strict=True)
        )
        allowed = of_one + (of_two if second.rows is None else of_two[second.rows])
    return differ(first.case, (one.out, one.lse), _aligned(two, second), allowed)


def _on(target: Target, first: Call, second: Call) -> list[Call]:
    """The calls with everything where the backend runs; tensors that they share stay shared."""
    inputs = first.inputs.to(target.device)
    others = inputs if second.inputs is first.inputs else second.inputs.to(target.device)
    rows, shift = (None if x is None else x.to(target.device) for x in (second.rows, second.shift))
    return [replace(first, inputs=inputs), replace(second, inputs=others, rows=rows, shift=shift)]


def _aligned(answer: Answer, call: Call) -> tuple[Tensor, Tensor | None]:
    """The second answer as the first should be: in its order of rows, without the shift."""
    out, lse = answer.out, answer.lse
    if call.rows is not None:
        out, lse = out[call.rows], None if lse is None else lse[call.rows]
    return out if call.shift is None else out.double() - call.shift, lse


def _repeats(call: Call, answer: Answer, backend: Backend, target: Target) -> bool:
    """Does a call give the same bits once more? Else no relation can be expected of it."""
    inputs = make(call.case).to(target.device)  # the backend may have changed those it had
    again, _ = answered(call.case, inputs, backend, target)
    return differ(call.case, (answer.out, answer.lse), (again.out, again.lse)).status is Status.PASS
