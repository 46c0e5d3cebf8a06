"""`python -m conformance explain`: what a failing case's output looks like, and which mistake would give it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conformance.asked import add_system, positive

if TYPE_CHECKING:
    from conformance.backends import Answer
    from conformance.case import Case
    from conformance.execute import Prepared
    from conformance.judge import Verdict
    from conformance.system import System
    from conformance.targets import Target
    from conformance.triage.elsewhere import Elsewhere

CONFORMANT, NOT_CONFORMANT, _, NOTHING_RAN = range(4)

REPEATS = 2
"""More calls, whose bits must be the first one's."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    explain = commands.add_parser(
        "explain", help="a failing case: where it is wrong, and which mistake looks like that"
    )
    explain.add_argument("case", metavar="CASE")
    add_system(explain, target="gpu, interpreter[:gfx942|gfx950] or cpu")
    explain.add_argument("--seconds", type=positive(float), metavar="S", help="for asking mistakes (default: 60)")
    explain.add_argument("--here", action="store_true", help="on no other target")
    explain.add_argument("--format", choices=("text", "json"), default="text")
    explain.set_defaults(command=main)


def main(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code: 0 if the case passes or is declined, 1 if it fails, 3 if nothing ran. Raises BadCase, NotReady."""
    from conformance.case import BadCase, Case
    from conformance.system import NotReady, choose
    from conformance.triage.elsewhere import Elsewhere
    from conformance.triage.trials import lost_with

    if "/" in options.case:
        raise BadCase(f"explain takes a case, not a relation: {options.case}")
    case = Case.parse(options.case)
    system = choose(options.backend, options.target, options.aiter)
    if system.only_builds:
        raise BadCase("a compile target has no answers to explain")
    if (lost := lost_with(case, system)) is not None:
        print(_as_json(case, system, lost.result) if options.format == "json" else lost.text)
        return NOT_CONFORMANT
    try:
        others = None if options.here else Elsewhere(system)
        target = system.start()
    except NotReady as e:
        print(f"conformance: {e}", file=sys.stderr)
        return NOTHING_RAN
    found = explained(case, system, target, options.seconds or 60.0, others)
    print(found.as_json(case, system) if options.format == "json" else "\n".join(found.text(case, system)))
    return CONFORMANT if found.verdict.status.conformant else NOT_CONFORMANT


@dataclass
class Explained:
    """A verdict, and lines that say what led to it."""

    head: str
    verdict: Verdict
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def text(self, case: Case, system: System) -> Iterator[str]:
        """As a person reads it; the repro comes last."""
        *lines, repro = self.head.splitlines()
        if self.verdict.status.conformant:
            reason = f": {self.verdict.reason}" if self.verdict.reason else ", so there is nothing to explain"
            yield f"{self.verdict.status}  {system.name}   {case.id}{reason}"
            return
        # What anatomy says of rows is said once.
        yield from (line for line in lines if not (self.pairs and line.startswith(("  where ", "  looks "))))
        yield from (f"  {word:<7} {said}" for word, said in self.pairs)
        yield repro

    def as_json(self, case: Case, system: System) -> str:
        """For a machine."""
        return _as_json(case, system, {"status": self.verdict.status, "reason": self.verdict.reason}, self.pairs)


def _as_json(case: Case, system: System, result: Mapping[str, object], lines: Sequence[tuple[str, str]] = ()) -> str:
    said = {"status": str(result["status"]), "reason": result.get("reason", ""), "lines": lines}
    return json.dumps({"case": case.id, "system": system.name, **said, "repro": system.repro(case.id)})


def explained(case: Case, system: System, target: Target, seconds: float, others: Elsewhere | None) -> Explained:
    """Run a case, and say what its output looks like where it is wrong, and what other targets make of it."""
    from conformance import failure
    from conformance.execute import run

    heard: list[tuple[Prepared, Answer]] = []

    def hear(_: Case, prepared: Prepared, answer: Answer) -> str:
        heard.append((prepared, answer))
        return ""

    verdict = run(case, system.backend, target, looks=hear)
    found = Explained(failure.text(case, verdict, system.name, target.name, system.repro(case.id)), verdict)
    if heard:
        found.pairs = list(_lines(case, system, target, heard[0], seconds, others))
    return found


def _lines(
    case: Case,
    system: System,
    target: Target,
    heard: tuple[Prepared, Answer],
    seconds: float,
    others: Elsewhere | None,
) -> Iterator[tuple[str, str]]:
    from conformance.triage import shown
    from conformance.triage.anatomy import anatomy
    from conformance.triage.attribution import attribute
    from conformance.triage.output import WrongOutput
    from conformance.triage.question import Question
    from conformance.triage.siblings import repeats, siblings

    prepared, answer = heard
    if others:
        others.start()
    output = WrongOutput(case, answer.out, answer.lse, answer.profile, prepared.want)
    yield from anatomy(output, Question.of(case, prepared.inputs)).lines()
    yield from repeats(case, system, target, answer, REPEATS)
    yield from siblings(case, system, target)
    yield from others.lines(case) if others else ()
    found = attribute(case, prepared.inputs, prepared.want, answer.out, answer.lse, answer.profile, seconds=seconds)
    yield from shown.lines(case, found)
