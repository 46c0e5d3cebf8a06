"""`python -m conformance shrink`: from a check that fails to the smallest case that fails in the same way."""

from __future__ import annotations

import argparse
import sys
from time import monotonic
from typing import TYPE_CHECKING

from conformance.asked import add_system
from conformance.check import Check, to_build
from conformance.status import Status
from conformance.summary import duration
from conformance.system import choose

if TYPE_CHECKING:
    from conformance.triage.shrink import Step

SHRUNK, BAD_USAGE, NOTHING_RAN = 0, 2, 3


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subparser, with its options."""
    shrink = commands.add_parser("shrink", help="the smallest case that fails as a check does")
    shrink.add_argument("case", metavar="CASE", help="the id of a case, or RELATION/ID")
    add_system(shrink)
    shrink.set_defaults(command=main)


def main(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code 0 with a case that fails, 2 where the check passes or is declined, 3 where it cannot be run."""
    from conformance.triage.shrink import MOST_RUNS, Shrinking
    from conformance.triage.signature import Signature
    from conformance.triage.trials import trials_of

    check = Check.parse(options.case)
    system = choose(options.backend, options.target, options.aiter)
    if system.only_builds:
        to_build([check], chosen=True)
    started = monotonic()
    with trials_of(system) as trials:

        def signature_of(check: Check) -> Signature | None:
            result = trials.run(check).result
            return None if Status(result["status"]).conformant else Signature.of(result)

        outcome = trials.run(check)
        if outcome.status is Status.NOT_RUN:
            print(f"conformance: nothing runs here: {outcome.result['reason']}", file=sys.stderr)
            return NOTHING_RAN
        failure = signature_of(check)
        if failure is None:
            how = {Status.UNSUPPORTED: "is declined"}.get(outcome.status, "builds" if system.only_builds else "passes")
            said = f"with {system.name} the check {how}, so that there is nothing to shrink: {check.id}"
            print(f"conformance: {said}", file=sys.stderr)
            return BAD_USAGE
        print(f"start   {check.id}\n        {failure}", flush=True)
        shrinking = Shrinking(signature_of, _say)
        smallest = shrinking.smallest(check, failure)
        said = trials.run(smallest).text
    cut = f", which is all: it may not be the smallest (at most {MOST_RUNS})" if shrinking.spent else ""
    print(f"\n{said}\n\n{trials.count} runs in {duration(monotonic() - started)}{cut}")
    return SHRUNK


def _say(step: Step) -> None:
    print(f"{'smaller' if step.same else 'not'.ljust(7)} {step.check.id}", flush=True)
    if not step.same:
        print(f"        {step.says}", flush=True)
