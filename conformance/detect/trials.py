"""What is run in children: each case on the unchanged kernels, with the lines that it reaches; cases on a mutant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import process_time

from conformance.backends import Backend
from conformance.case import Case
from conformance.detect import forks
from conformance.detect.kernels import KernelModule
from conformance.detect.mutants import Mutant
from conformance.detect.reach import traced
from conformance.execute import Prepared, run
from conformance.status import Status
from conformance.targets import Target

SLOWER = 10.0
"""Times its own CPU time that a case may take on a mutant, which may have to count more, but not without end."""

TRACED = 5.0
"""Times its own CPU time that a case may take where the lines that it runs are collected."""


class CannotJudge(Exception):
    """What judges mutants has failed itself, in one sentence: no mutant may be said to be killed by that."""


@dataclass(frozen=True)
class Baseline:
    """A case on the unchanged kernels: status, CPU seconds, and the lines that it runs, by the module's name."""

    case: str
    status: str
    seconds: float
    lines: dict[str, frozenset[int]]

    @property
    def can_kill(self) -> bool:
        return self.status == Status.PASS

    def reaches(self, mutant: Mutant) -> bool:
        first, last = mutant.lines
        return not self.lines.get(mutant.module, frozenset()).isdisjoint(range(first, last + 1))


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: "killed" (by which case, as what) or "survived", and how many cases ran on it."""

    mutant: str
    outcome: str
    ran: int
    by: str = ""
    status: str = ""


@dataclass(frozen=True)
class Laboratory:
    """All that a child needs. What was prepared for the cases is shared by every child."""

    backend: Backend
    target: Target
    modules: list[KernelModule]
    prepared: dict[str, Prepared]  # by the case's id
    least_seconds: float  # of CPU time that every case is allowed
    at_once: int

    def unmutated(self, cases: Iterable[Case], most_seconds: float | None) -> Iterator[tuple[Baseline, str]]:
        """Each case on the kernels as they are, with the lines that it runs, and its status on copies of them.

        The copies are put in place as a mutant is; the seconds are those on the copies. Raises CannotJudge.
        """

        def work(case: Case, send: forks.Send) -> None:
            if most_seconds is not None:
                forks.allow(TRACED * most_seconds)
            with traced(self.modules) as lines:
                verdict = run(case, self.backend, self.target, self.prepared[case.id])
            send(status=verdict.status, lines={name: sorted(found) for name, found in lines.items()})
            if verdict.status is not Status.PASS:
                return
            for module in self.modules:
                module.put_in_place(module.functions, module.text)
            if most_seconds is not None:
                forks.allow(most_seconds)
            started = process_time()
            verdict = run(case, self.backend, self.target, self.prepared[case.id])
            send(status=verdict.status, seconds=round(process_time() - started, 3))

        for ended in forks.each(cases, work, self.at_once):
            _refuse_failure(ended, ended.job.id)
            first, second = (*ended.sent, None, None)[:2]
            lines = {name: frozenset(found) for name, found in first["lines"].items()} if first else {}
            status = first["status"] if first else _death(ended)
            seconds = second["seconds"] if second else 0.0
            copied = second["status"] if second else _death(ended) if status == Status.PASS else status
            yield Baseline(ended.job.id, status, seconds, lines), copied

    def warm_up(self, passing: Iterable[tuple[Case, Baseline]]) -> None:
        """Runs the cheapest case of each kernel function here, so that no child bears the cost of a first run."""
        warm: set[tuple[str, str]] = set()
        for case, baseline in sorted(passing, key=lambda one: one[1].seconds):
            here = {(module.name, function) for module in self.modules
                    for function in module.functions_at(baseline.lines.get(module.name, frozenset()))}  # fmt: skip
            if here - warm and case.id in self.prepared:
                run(case, self.backend, self.target, self.prepared[case.id])
                warm |= here

    def judge(
        self, mutants: Iterable[Mutant], reaching: Callable[[Mutant], list[tuple[Case, float]]]
    ) -> Iterator[Outcome]:
        """What becomes of each mutant on the cases, with their seconds, that reach it: the first to fail kills it.

        A case that a mutant's kernel declines says nothing of it. Raises CannotJudge.
        """
        by_name = {module.name: module for module in self.modules}

        def work(mutant: Mutant, send: forks.Send) -> None:
            module = by_name[mutant.module]
            forks.allow(self.least_seconds)
            try:
                module.put_in_place((mutant.function,), mutant.applied(module.text))
            except (OSError, MemoryError):  # the machine's: a kernel opens no file, and has not run yet
                raise
            except Exception:  # whatever a changed module raises where it is read
                send(status=Status.ERROR)
                return
            for case, seconds in reaching(mutant):
                send(case=case.id)
                forks.allow(max(self.least_seconds, SLOWER * seconds))
                verdict = run(case, self.backend, self.target, self.prepared[case.id])
                if not verdict.status.conformant:
                    send(status=verdict.status)
                    return
            send(status=Status.PASS)

        for ended in forks.each(mutants, work, self.at_once):
            _refuse_failure(ended, ended.job.id)
            yield _outcome(ended)


def _refuse_failure(ended: forks.Ended, what: str) -> None:
    """What a backend raises is a verdict, so whatever else a child raises is the harness's own."""
    if ended.raised:
        raise CannotJudge(f"{what} cannot be judged: {ended.raised}")


def _outcome(ended: forks.Ended[Mutant]) -> Outcome:
    tried = [message["case"] for message in ended.sent if "case" in message]
    status = next((message["status"] for message in ended.sent if "status" in message), None)
    if status == Status.PASS:
        return Outcome(ended.job.id, "survived", len(tried))
    return Outcome(ended.job.id, "killed", len(tried), tried[-1] if tried else "", status or _death(ended))


def _death(ended: forks.Ended) -> Status:
    return Status.TIMEOUT if ended.ran_out_of_time else Status.CRASH
