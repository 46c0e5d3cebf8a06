"""What many verdicts come to: counts, the largest figures by kernel, and every case that was failed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from conformance.case import Case
from conformance.judge import CASE_NOISE_LIMIT, ROW_NOISE_LIMIT, Figures, Verdict
from conformance.status import Status

SAID = (Status.UNSUPPORTED, Status.ERROR, Status.RESOURCE)
"""Statuses whose reason says more than the case: each reason is shown once, with the first case that met it."""

COLUMNS = ("error/bound", "noise/limit", "noise of a row", "lse error/bound")
LIMITS = (1.0, 1.0, ROW_NOISE_LIMIT, 1.0)


@dataclass
class Tally:
    """Everything that is told about a run. `largest` holds, by kernel, each figure and the case it comes from."""

    cases: int = 0
    statuses: Counter[Status] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)  # passes and failures with figures, by kernel
    largest: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    reasons: dict[tuple[Status, str], tuple[int, str]] = field(default_factory=dict)  # how often, and the first case
    wrong: list[str] = field(default_factory=list)  # a line for each

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if not status.conformant)

    def note(self, case: Case, kernel: str, verdict: Verdict) -> None:
        """Count a verdict."""
        self.statuses[verdict.status] += 1
        if verdict.status in SAID:
            count, first = self.reasons.get((verdict.status, verdict.reason), (0, case.id))
            self.reasons[verdict.status, verdict.reason] = count + 1, first
        elif verdict.status is not Status.PASS:
            figures = "" if verdict.figures is None else f"; {_shown(verdict.figures)}"
            self.wrong.append(f"{verdict.status}  {kernel}   {case.id}\n    {verdict.reason}{figures}")
        if verdict.figures is None:
            return
        self.runs[kernel] += 1
        if verdict.status is Status.PASS:
            figures = verdict.figures
            noise = figures.noise / verdict.noise_limit
            self._raise(kernel, [(x, case.id) for x in (figures.bound, noise, figures.row_noise, figures.lse or 0.0)])

    def add(self, other: "Tally") -> None:
        """Take in another tally."""
        self.cases += other.cases
        self.statuses += other.statuses
        self.runs += other.runs
        for kernel, figures in other.largest.items():
            self._raise(kernel, figures)
        for key, (count, first) in other.reasons.items():
            known, at = self.reasons.get(key, (0, first))
            self.reasons[key] = known + count, at
        self.wrong += other.wrong

    def _raise(self, kernel: str, figures: list[tuple[float, str]]) -> None:
        before = self.largest.get(kernel, figures)
        self.largest[kernel] = [max(pair) for pair in zip(before, figures, strict=True)]

    def lines(self) -> Iterator[str]:
        """The report."""
        counts = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
        yield f"{self.cases} cases, {sum(self.statuses.values())} case-runs: {counts or 'none'}"
        if self.largest:
            width = max(map(len, self.largest))
            yield f"largest figures among passes (noise of a case over its limit, {CASE_NOISE_LIMIT} or of few rows):"
            yield f"  {'':{width}}  {'runs':>6}  " + "  ".join(COLUMNS)
            for kernel, figures in sorted(self.largest.items()):
                shown = (f"{x:>{len(column)}.2f}" for (x, _), column in zip(figures, COLUMNS, strict=True))
                yield f"  {kernel:{width}}  {self.runs[kernel]:>6}  " + "  ".join(shown)
            yield f"  {'limit':{width}}  {'':6}  " + "  ".join(
                f"{x:>{len(column)}.2f}" for x, column in zip(LIMITS, COLUMNS, strict=True)
            )
            for at, column in enumerate(COLUMNS):
                value, case = max(figures[at] for figures in self.largest.values())
                yield f"  {column} {value:.3g}: {case}"
        for (status, reason), (count, first) in sorted(self.reasons.items()):
            yield f"{status} x {count}: {reason}\n    first {first}"
        yield from self.wrong


def _shown(figures: Figures) -> str:
    lse = "" if figures.lse is None else f", lse {figures.lse:.3g}"
    return f"error/bound {figures.bound:.3g}, noise {figures.noise:.3g}, of a row {figures.row_noise:.3g}{lse}"
