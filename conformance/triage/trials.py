"""Single checks on one system, each in a child process that may die: what came of them, and how long they took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from conformance.case import Case
from conformance.check import Check
from conformance.isolate import TIME_LIMIT, TIME_LIMIT_ELSEWHERE, Isolation
from conformance.outcome import Outcome
from conformance.status import Status
from conformance.system import System


@dataclass
class Trials:
    """Checks that are run one after another; no check is run twice."""

    isolation: Isolation
    seconds: float = 0.0
    _known: dict[str, Outcome] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self._known)

    def run(self, check: Check) -> Outcome:
        """What came of a check: a verdict, whatever the kernel does."""
        if check.id not in self._known:
            started = monotonic()
            self._known[check.id] = self.isolation.run(check)
            self.seconds += monotonic() - started
        return self._known[check.id]


@contextmanager
def trials_of(system: System) -> Iterator[Trials]:
    """Trials on `system`; this process imports no AITER for them, and leaves the GPU alone."""
    isolation = Isolation(system, TIME_LIMIT.get(system.target_kind, TIME_LIMIT_ELSEWHERE))
    try:
        yield Trials(isolation)
    finally:
        isolation.close()


def lost_with(case: Case, system: System) -> Outcome | None:
    """What came of a case that kills its process, or keeps it for ever: found out in another one. None for others."""
    with trials_of(system) as trials:
        outcome = trials.run(Check(case))
    return outcome if outcome.status in (Status.CRASH, Status.TIMEOUT) else None
