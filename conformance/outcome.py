"""What came of a check, in words and figures that can be sent from one process to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from conformance import graphs
from conformance.check import Check
from conformance.execute import run
from conformance.failure import text, which_rows
from conformance.graphs import GraphRelation
from conformance.judge import Verdict
from conformance.record import digest
from conformance.relate import relate
from conformance.status import Status
from conformance.system import System
from conformance.targets import Target
from conformance.triage.looks import looks_of

LARGEST_FIGURE = 1e300
"""Stands for infinity, which JSON does not know."""


@dataclass(frozen=True)
class Outcome:
    """A result as a record holds it, and what a person should read where it fails."""

    result: dict[str, object]
    text: str

    @property
    def status(self) -> Status:
        return Status(str(self.result["status"]))


def of_check(check: Check, system: System, target: Target) -> Outcome:
    """Run a check in this process."""
    if check.relation is None:
        verdict = run(check.case, system.backend, target, looks=looks_of)
    elif isinstance(check.relation, GraphRelation):
        verdict = graphs.related(check.relation, check.case, system.backend, target)
    else:
        verdict = relate(check.relation, check.case, system.backend, target)
    return of_verdict(check, verdict, system, target.name)


def of_verdict(check: Check, verdict: Verdict, system: System, target: str) -> Outcome:
    """What a verdict, however it was come by, means for a check of `system` on the target of that name."""
    if verdict.status is Status.NOT_RUN:
        said = f"{verdict.status}  {verdict.reason}"
    else:
        said = text(check.case, verdict, system.name, target, system.repro(check.id), check.relation)
    return Outcome(dict(_result(check, verdict)), said)


def _result(check: Check, verdict: Verdict) -> Iterator[tuple[str, object]]:
    yield "case", check.case.id
    if check.relation:
        yield "relation", check.relation.name
    yield "digest", digest(check)
    yield "status", str(verdict.status)
    for name in ("reason", "evidence", "looks", "path"):
        if said := getattr(verdict, name):
            yield name, said
    if verdict.wrong is not None:
        yield "rows", which_rows(check.case, verdict.wrong)
    if verdict.kernels:
        yield "kernels", [asdict(kernel) for kernel in verdict.kernels]
    figures = asdict(verdict.figures) if verdict.figures else {}
    for name, value in (figures | {"seconds": verdict.seconds}).items():
        if value is not None:
            yield name, min(float(f"{value:.4g}"), LARGEST_FIGURE)
