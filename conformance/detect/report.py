"""The result of a mutation analysis, as a person should read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from conformance.detect.mutants import Mutant
from conformance.detect.trials import Baseline, Outcome
from conformance.status import Status


@dataclass(frozen=True)
class Analysis:
    """Mutants and what became of them; `reached` are the ids of those whose line a case that judges runs."""

    mutants: list[Mutant]
    texts: dict[str, str]  # of the modules, by name
    outcomes: dict[str, Outcome]
    equivalent: dict[str, str]  # reasons by id
    cases: dict[str, Baseline]
    reached: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)  # cases, and why they do not judge

    def fate(self, mutant: Mutant) -> str:
        """killed, survived, equivalent, not reached, or not run."""
        if mutant.id not in self.reached:
            return "not reached"
        outcome = self.outcomes.get(mutant.id)
        if outcome is None:
            return "not run"
        survived = outcome.outcome == "survived"
        return "equivalent" if survived and mutant.id in self.equivalent else outcome.outcome

    def of(self, fate: str) -> list[Mutant]:
        return [mutant for mutant in self.mutants if self.fate(mutant) == fate]

    @property
    def wrongly_equivalent(self) -> list[Mutant]:
        """Those that the list calls equivalent, and a case kills."""
        return [mutant for mutant in self.of("killed") if mutant.id in self.equivalent]


FATES = ("killed", "survived", "equivalent", "not run", "not reached")


def lines(analysis: Analysis) -> Iterator[str]:
    """Survivors with their diffs, the tables, and what the cases were."""
    for mutant in analysis.of("survived"):
        text = analysis.texts[mutant.module]
        yield f"SURVIVED  {mutant.id}  in {mutant.function}, digest {mutant.digest(text)}"
        yield from (f"    {line}" for line in mutant.diff(text))
    for mutant in analysis.wrongly_equivalent:
        outcome = analysis.outcomes[mutant.id]
        yield f"NOT EQUIVALENT  {mutant.id}  {outcome.status} in {outcome.by}: the list of equivalent mutants is wrong"
    yield ""
    yield from _cases(analysis)
    yield from _table("module", analysis, lambda mutant: mutant.module.rpartition(".")[2])
    yield from _table("function", analysis, lambda mutant: mutant.function)
    yield from _table("operator", analysis, lambda mutant: mutant.operator)
    statuses = Counter(analysis.outcomes[mutant.id].status for mutant in analysis.of("killed"))
    yield "killed as: " + (", ".join(f"{count} {status}" for status, count in statuses.most_common()) or "none")
    yield _verdict(analysis)


def _verdict(analysis: Analysis) -> str:
    killed, survived, equivalent, waiting, absent = (len(analysis.of(fate)) for fate in FATES)
    judged = f"{killed} killed, {survived} survived, {equivalent} equivalent by inspection, {absent} not reached"
    rest = f", {waiting} not run: INCOMPLETE" if waiting else ""
    return f"{len(analysis.mutants)} mutants: {judged}{rest}. Kill rate {_rate(killed, survived)}."


def _cases(analysis: Analysis) -> Iterator[str]:
    kill = sum(case.can_kill and name not in analysis.left_out for name, case in analysis.cases.items())
    others = Counter(
        analysis.left_out.get(name) or f"{case.status} unmutated"
        for name, case in analysis.cases.items()
        if name in analysis.left_out or not case.can_kill
    )
    cannot = "".join(f"; {count} cannot kill: {why}" for why, count in others.most_common())
    yield f"{len(analysis.cases)} cases: {kill} pass unmutated and judge{cannot}"


def _table(noun: str, analysis: Analysis, key: Callable[[Mutant], str]) -> Iterator[str]:
    rows: dict[str, Counter[str]] = {}
    for mutant in analysis.mutants:
        rows.setdefault(key(mutant), Counter())[analysis.fate(mutant)] += 1
    width = max(len(noun), *map(len, rows)) if rows else len(noun)
    yield ""
    yield "  ".join((f"{noun:{width}}", f"{'mutants':>7}", *(f"{fate:>{len(fate)}}" for fate in FATES), "kill rate"))
    for name, row in sorted(rows.items()):
        figures = (f"{row[fate]:>{len(fate)}}" for fate in FATES)
        rate = _rate(row["killed"], row["survived"])
        yield "  ".join((f"{name:{width}}", f"{row.total():>7}", *figures, f"{rate:>9}"))
    yield ""


def _rate(killed: int, survived: int) -> str:
    return f"{killed / (killed + survived):.1%}" if killed + survived else "-"


def why_left_out(baseline: Baseline, most_seconds: float | None) -> str:
    """Why a case does not judge mutants whatever its status; "" where there is no such reason."""
    if most_seconds is not None and (baseline.seconds > most_seconds or baseline.status == Status.TIMEOUT):
        return f"more than {most_seconds:g} s of CPU time unmutated"
    return ""
