"""A cluster's representative, run again: does it fail here, what does it look like, and what is its smallest case?

Every run is in a child process that may die, and all of a cluster's in so many seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from conformance.check import Check
from conformance.graphs import GraphRelation
from conformance.isolate import child_environment
from conformance.status import Status
from conformance.system import System
from conformance.triage.clusters import Cluster, Failure
from conformance.triage.shrink import Shrinking, Step
from conformance.triage.signature import Signature
from conformance.triage.trials import Trials

CANDIDATES = 3
"""So many of a cluster are tried, the best first, where those before pass here."""

MOST_ASKED, STARTING = 30.0, 90.0
"""Seconds for asking mistakes, and those that `explain` may take besides: to import AITER, and to run the case."""

WORDS = ("share", "where", "columns", "only", "key", "looks", "or", "partly")
"""Of what `explain` says, the lines that a page has."""


class NothingRuns(Exception):
    """The system does not start here, in one sentence."""


class OutOfTime(Exception):
    """The seconds of a cluster are over."""


@dataclass
class Examined:
    """What came of a cluster's representative; empty where there was no time for it."""

    check: str = ""
    """The failure that was run again, by its id."""
    status: str = ""
    """What came of it here; of the last that was tried, if none fails."""
    reason: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """What `explain` says: a word, and a line."""
    smallest: str = ""
    """The smallest check that fails in the same way."""
    runs: int = 0
    notes: list[str] = field(default_factory=list)
    """What was not done, and why."""


@dataclass
class Examiner:
    """Runs what stands for a cluster on one system; `say` hears of each step."""

    system: System
    trials: Trials
    say: Callable[[str], None]

    def examine(self, cluster: Cluster, into: Examined, seconds: float) -> None:
        """Fills `into` as far as it comes, so that an interrupt loses nothing. Raises NothingRuns."""
        if cluster.closed:
            return
        ends, before = monotonic() + seconds, self.trials.count
        try:
            if (failing := self._that_fails(cluster, into, ends)) is not None:
                self._explain(failing, into, ends)
                self._shrink(failing, into, ends)
        except OutOfTime:
            into.notes.append(f"stopped after {seconds:.0f}s (--seconds)")
        finally:
            into.runs = self.trials.count - before

    def _that_fails(self, cluster: Cluster, into: Examined, ends: float) -> Check | None:
        """The first candidate that fails here, of those that the target can show."""
        able = [one for one in cluster.candidates if self._can_show(one)]
        if not able:
            into.notes.append(f"target {self.system.target_spec} cannot show it")
        for one in able[:CANDIDATES]:
            self.say(f"runs {one.check.id}")
            result = self._run(one.check, ends)
            into.check, into.status, into.reason = one.check.id, result["status"], result.get("reason", "")
            if not Status(into.status).conformant:
                if into.status != one.result["status"]:
                    into.notes.append(f"{into.status} here, {one.result['status']} in the record")
                return one.check
        if able:
            into.notes.append(f"does not fail here, as far as was tried ({min(len(able), CANDIDATES)} of {len(able)})")
        return None

    def _can_show(self, one: Failure) -> bool:
        if self.system.only_builds:
            return one.check.relation is None
        return one.check.runs_on(self.system.target_kind)

    def _run(self, check: Check, ends: float) -> dict[str, str]:
        """The result of a check. Raises OutOfTime, and NothingRuns."""
        left, limit = ends - monotonic(), self.trials.isolation.time_limit
        if left <= 0:
            raise OutOfTime
        self.trials.isolation.time_limit = min(limit, left)
        try:
            outcome = self.trials.run(check)
        finally:
            self.trials.isolation.time_limit = limit
        if outcome.status is Status.NOT_RUN:
            raise NothingRuns(str(outcome.result["reason"]))
        if outcome.status is Status.TIMEOUT and monotonic() >= ends:
            raise OutOfTime
        return {name: str(value) for name, value in outcome.result.items()}

    def _explain(self, check: Check, into: Examined, ends: float) -> None:
        """Asks `explain` in a process of its own: a kernel that kills it, kills nothing else."""
        if self.system.only_builds or isinstance(check.relation, GraphRelation):
            return
        seconds = min(MOST_ASKED, max(1.0, (ends - monotonic()) / 3))
        self.say(f"explains {check.case.id}")
        options = [*self.system.options, "--here", "--seconds", f"{seconds:.1f}", "--format", "json"]
        words = ["explain", *options, check.case.id]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "conformance", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False, env=child_environment(), timeout=seconds + STARTING,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            into.notes.append(f"explain gave no answer in {seconds + STARTING:.0f}s")
            return
        try:
            said = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            into.notes.append(f"explain ended with exit code {done.returncode}, and no answer")
        else:
            into.lines = [(word, line) for word, line in said["lines"] if word in WORDS]
            if check.relation and Status(said["status"]).conformant:
                into.notes.append(f"the case alone: {said['status']}")

    def _shrink(self, check: Check, into: Examined, ends: float) -> None:
        """The smallest case, or the smallest that was found in time."""

        def signature_of(check: Check) -> Signature | None:
            result = self._run(check, ends)
            return None if result["status"] == Status.PASS else Signature.of(result)

        def heard(step: Step) -> None:
            if step.same:
                into.smallest = step.check.id
                self.say(f"smaller {step.check.id}")

        failure = signature_of(check)
        assert failure is not None, "it was seen to fail"
        into.smallest = check.id
        shrinking = Shrinking(signature_of, heard)
        into.smallest = shrinking.smallest(check, failure).id
        if shrinking.spent:
            into.notes.append(f"all {shrinking.most} runs were needed: there may be a smaller case")
