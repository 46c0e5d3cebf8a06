"""One run of a mutation analysis: cases on the unchanged kernels, then mutants; what a record knows is not redone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from time import monotonic
from typing import TypeVar

from conformance.case import Case
from conformance.detect.mutants import Mutant
from conformance.detect.record import Record
from conformance.detect.report import Analysis, why_left_out
from conformance.detect.trials import Baseline, Laboratory
from conformance.execute import Prepared, prepare
from conformance.status import Status

Item = TypeVar("Item")


class NotTheSame(Exception):
    """Unchanged kernels do not pass what they passed, once more or put in place as a mutant's are: nothing can be
    concluded.
    """


class Run:
    """Fills an analysis. `most_seconds` and `most_mib` bound the cases, `seconds` the run itself."""

    def __init__(
        self,
        laboratory: Laboratory,
        kept: Record,
        analysis: Analysis,
        most_seconds: float | None,
        most_mib: float | None,
        seconds: float | None,
    ) -> None:
        self.laboratory, self.kept, self.analysis = laboratory, kept, analysis
        self.most_seconds, self.most_mib = most_seconds, most_mib
        self.ends = float("inf") if seconds is None else monotonic() + seconds
        self.knows_what_is_reached = False

    def all(self, cases: list[Case]) -> None:
        """Every case, then every mutant. Raises NotTheSame or CannotJudge."""
        recorded = set(self.kept.cases)
        unknown = [case for case in cases if case.id not in recorded]
        self._prepare(unknown)
        self._baseline([case for case in unknown if case.id in self.laboratory.prepared])
        if any(case.id not in self.kept.cases for case in cases):
            return  # the time is over
        for name, baseline in self.kept.cases.items():
            if why := why_left_out(baseline, self.most_seconds):
                self.analysis.left_out[name] = why
        reaching = {mutant.id: self._reaching(mutant, cases) for mutant in self.analysis.mutants}
        self.analysis.reached.update(name for name, found in reaching.items() if found)
        self.knows_what_is_reached = True

        waiting = self.analysis.of("not run")
        needed = {case.id: case for mutant in waiting for case, _ in reaching[mutant.id]}
        self._prepare([case for name, case in needed.items() if name not in self.laboratory.prepared])
        self._confirm([case for name, case in needed.items() if name in recorded])
        self.laboratory.warm_up((case, self.kept.cases[name]) for name, case in needed.items())
        progress = _Progress("mutants", len(waiting))
        for outcome in self.laboratory.judge(self._in_time(waiting), lambda mutant: reaching[mutant.id]):
            self.kept.add_outcome(outcome)
            progress.step(outcome.outcome)

    def _in_time(self, items: Iterable[Item]) -> Iterator[Item]:
        return (item for item in items if monotonic() < self.ends)

    def _reaching(self, mutant: Mutant, cases: list[Case]) -> list[tuple[Case, float]]:
        """The cases that can kill a mutant, with their seconds, cheapest first."""
        known = ((case, self.kept.cases[case.id]) for case in cases if case.id not in self.analysis.left_out)
        found = [(case, baseline.seconds) for case, baseline in known if baseline.can_kill and baseline.reaches(mutant)]
        return sorted(found, key=lambda one: (one[1], one[0].id))

    def _prepare(self, cases: list[Case]) -> None:
        """Makes inputs and asks the oracle, once for all children."""
        progress = _Progress("cases prepared", len(cases))
        for case in self._in_time(cases):
            status, prepared = Status.RESOURCE, None
            try:
                prepared = prepare(case, self.laboratory.target)
            except MemoryError:
                pass
            except Exception:  # in a run it is an ERROR of the case's
                status = Status.ERROR
            if prepared is not None and (self.most_mib is None or _mib(prepared) <= self.most_mib):
                self.laboratory.prepared[case.id] = prepared
            else:
                self.kept.add_case(Baseline(case.id, status, 0.0, {}))
            progress.step()

    def _baseline(self, cases: list[Case]) -> None:
        """Each case on the unchanged kernels, where they lie and as a mutant is put in place, which must agree."""
        progress = _Progress("cases run unmutated", len(cases))
        for baseline, copied in self.laboratory.unmutated(self._in_time(cases), self.most_seconds):
            too_slow = copied == Status.TIMEOUT and self.most_seconds is not None
            if copied != baseline.status and not too_slow:
                differs = f"{baseline.case} is {baseline.status}, but {copied} on an unchanged copy of the kernels"
                raise NotTheSame(f"{differs}: no mutant was run")
            self.kept.add_case(replace(baseline, status=copied))
            progress.step(copied)

    def _confirm(self, recorded: list[Case]) -> None:
        """The cheapest case of a record that is continued passes here too: a machine may have changed since."""
        able = [case for case in recorded if case.id in self.laboratory.prepared]
        cheapest = sorted(able, key=lambda case: (self.kept.cases[case.id].seconds, case.id))[:1]
        for baseline, copied in self.laboratory.unmutated(cheapest, most_seconds=None):
            if copied != Status.PASS:
                was = self.kept.cases[baseline.case].status
                raise NotTheSame(f"{baseline.case} is {was} in the record, but {copied} now: no mutant was run")


class _Progress:
    """Counts steps aloud: a line every few seconds, with what came of them and the time that is left."""

    EVERY = 15.0

    def __init__(self, noun: str, total: int) -> None:
        self.noun, self.total, self.counts = noun, total, Counter[str]()
        self.began = self.said = monotonic()

    def step(self, what: str = "") -> None:
        self.counts[what] += 1
        done, now = self.counts.total(), monotonic()
        if now - self.said < self.EVERY and done < self.total:
            return
        self.said = now
        so_far = "".join(f", {number} {word}" for word, number in sorted(self.counts.items()) if word)
        left = (now - self.began) / done * (self.total - done)
        estimate = f"; about {left / 60:.0f} min left" if done < self.total else ""
        print(f"{done} of {self.total} {self.noun}{so_far}{estimate}", flush=True)


def _mib(prepared: Prepared) -> float:
    """Size of the inputs: K and V may lie in one memory."""
    tensors = [value for value in vars(prepared.inputs).values() if hasattr(value, "untyped_storage")]
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(memory.values()) / 2**20
