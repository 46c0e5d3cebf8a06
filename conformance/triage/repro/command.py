"""`python -m conformance repro`: a case that fails as a bundle for an issue of AITER's."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.asked import add_system

if TYPE_CHECKING:
    from conformance.backends import Answer, Backend
    from conformance.case import Case
    from conformance.inputs import Inputs
    from conformance.judge import Verdict
    from conformance.outcome import Outcome
    from conformance.system import System
    from conformance.targets import Target
    from conformance.triage.repro.expected import Expected
    from conformance.triage.repro.heard import Ear, KernelCall

WRITTEN, _, BAD_USAGE, NOTHING_RAN = range(4)

LARGE = 25 * 2**20
"""Bytes that a file attached to an issue on GitHub may have."""


class NoBundle(Exception):
    """Why there is nothing to write, in one sentence; `code` is the command's."""

    def __init__(self, message: str, code: int = BAD_USAGE) -> None:
        super().__init__(message)
        self.code = code


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    repro = commands.add_parser("repro", help="a failing case as a bundle for an AITER issue: tensors, script and text")
    repro.add_argument("case", metavar="CASE")
    repro.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="a new or an empty folder")
    add_system(repro, backend="aiter, or another that calls AITER", target="gpu or interpreter[:gfx942|gfx950]")
    repro.set_defaults(command=main)


def main(options: argparse.Namespace, _: list[str]) -> int:
    """Exit code 0 with a bundle, 2 where there is none to write, 3 if nothing ran, or the case is declined.

    Raises BadCase, NotReady.
    """
    try:
        return _main(options)
    except NoBundle as e:
        print(f"conformance: {e}", file=sys.stderr)
        return e.code
    except OSError as e:
        print(f"conformance: cannot write {options.output}: {e}", file=sys.stderr)
        return BAD_USAGE


def _main(options: argparse.Namespace) -> int:
    from conformance.aiter_loading import heard_by
    from conformance.case import BadCase, Case
    from conformance.status import Status
    from conformance.system import NotReady, choose
    from conformance.triage.repro.heard import Ear
    from conformance.triage.trials import lost_with

    if "/" in options.case:
        raise BadCase(f"repro takes a case, not a relation: {options.case}")
    case = Case.parse(options.case)
    _refuse_to_overwrite(options.output)
    if find_spec("safetensors") is None:
        raise NoBundle("repro needs safetensors: python -m pip install safetensors")
    system, ear = choose(options.backend, options.target, options.aiter), Ear()
    if system.only_builds:
        raise BadCase("a compile target runs no kernel, whose call could be written down")
    if system.source is None:
        raise NoBundle(f"backend {system.backend.name} does not call AITER, which a bundle is about")
    lost = lost_with(case, system)
    try:
        with heard_by(ear.hear):
            target = system.start()
    except NotReady as e:
        raise NoBundle(str(e), NOTHING_RAN) from e
    asked = (case, system, target, ear)
    ran = Ran.without_the_call(*asked, lost) if lost is not None else Ran.of(*asked)
    if ran.verdict.status is Status.UNSUPPORTED:
        raise NoBundle(f"the case is declined, so that there is nothing to report: {ran.verdict.reason}", NOTHING_RAN)
    if ran.verdict.status is Status.PASS:
        raise NoBundle(f"the case passes, so that there is nothing to report: {case.id}")
    for line in _write(ran, options.output):
        print(line)
    return WRITTEN


def _refuse_to_overwrite(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NoBundle(f"{folder} is not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise NoBundle(f"{folder} is not empty, and nothing is overwritten: name another folder")


@dataclass(frozen=True)
class Ran:
    """A case that has run, its verdict, and what was heard meanwhile."""

    case: Case
    system: System
    target: Target
    verdict: Verdict
    inputs: Inputs
    expected: Expected | None = field(repr=False)
    call: KernelCall | None

    @classmethod
    def of(cls, case: Case, system: System, target: Target, ear: Ear) -> Ran:
        """Runs a case once, and asks once more where in its output the answer is. Raises NoBundle."""
        from conformance.execute import prepare, run
        from conformance.status import Status
        from conformance.triage.looks import looks_of
        from conformance.triage.repro.expected import NotAView, expected

        prepared = prepare(case, target)
        verdict = run(case, system.backend, target, prepared, looks=looks_of)
        if verdict.status in (Status.PASS, Status.UNSUPPORTED):
            return cls(case, system, target, verdict, prepared.inputs, None, None)
        if ear.first is None:
            raise NoBundle(f"{verdict.status}, and AITER was not called: {verdict.reason}")
        if ear.count > 1:
            raise NoBundle(
                f"the case takes {ear.count} calls of AITER, and a bundle is about one: "
                "shrink it to a case that takes one call first"
            )
        if verdict.status is Status.MALFORMED:
            raise NoBundle(f"{verdict.reason}: there is nothing to compare, and a sentence is enough for an issue")
        wanted = None
        if verdict.status in (Status.MISMATCH, Status.NONFINITE):
            try:
                wanted = expected(
                    case, prepared.want, ear.first, ear, lambda: answer(case, prepared.inputs, system.backend)
                )
            except NotAView as e:
                raise NoBundle(f"no script can be written: {e}") from e
        return cls(case, system, target, verdict, prepared.inputs, wanted, ear.first)

    @classmethod
    def without_the_call(cls, case: Case, system: System, target: Target, ear: Ear, lost: Outcome) -> Ran:
        """Everything up to the first call of AITER, which would not return. Raises NoBundle."""
        from conformance.execute import prepare, run
        from conformance.judge import Verdict

        verdict = Verdict(lost.status, str(lost.result.get("reason", "")))
        prepared, ear.stops = prepare(case, target), True
        run(case, system.backend, target, prepared)
        if ear.first is None:
            raise NoBundle(f"{verdict.status}, and AITER was not called: {verdict.reason}")
        return cls(case, system, target, verdict, prepared.inputs, None, ear.first)


def answer(case: Case, inputs: Inputs, backend: Backend) -> Answer:
    """What a backend answers, also where it declines and can be probed. Raises what it raises."""
    from conformance.status import Unsupported

    try:
        return backend.answer(case, inputs)
    except Unsupported as refused:
        if (probe := refused.probe) is None:
            raise
        return replace(backend, attend=lambda *_: probe()).answer(case, inputs)


def _write(ran: Ran, folder: Path) -> list[str]:
    """Writes the bundle; gives what to say of it. Raises NoBundle and OSError."""
    from conformance.memory import shown
    from conformance.triage.repro.bundle import ISSUE, SCRIPT, TENSORS, Stored
    from conformance.triage.repro.issue import Issue
    from conformance.triage.repro.script import NotWritable, script

    assert ran.call is not None
    assert ran.system.source is not None
    compares = ran.expected is not None
    issue = Issue(ran.case, ran.verdict, ran.call, ran.system, ran.target, ran.system.source, compares)
    arch = ran.target.arch if ran.target.arch.startswith("gfx") else "gfx942"
    try:
        title = f"{ran.call.function}: {ran.verdict.status}; {ISSUE} has the facts."
        text = script(ran.call, ran.expected, title, arch, ran.verdict.status)
    except NotWritable as e:
        raise NoBundle(f"no script can be written: {e}") from e
    folder.mkdir(parents=True, exist_ok=True)
    Stored.of(ran.call, ran.expected).write(folder / TENSORS)
    (folder / SCRIPT).write_text(text, encoding="utf-8")
    (folder / ISSUE).write_text("\n".join([*issue.lines(), ""]), encoding="utf-8")
    size = (folder / TENSORS).stat().st_size
    large = "; more than GitHub takes: shrink the case first" if size > LARGE else ""
    return [
        f"{ran.verdict.status}  {ran.case.id}",
        f"  {folder / SCRIPT}",
        f"  {folder / TENSORS}  {shown(size)}{large}",
        f"  {folder / ISSUE}",
    ]
