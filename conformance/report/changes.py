"""What changed between any two versions of a series; and the sentence that answers "may we bump the pin?"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from conformance.compare import Change, Comparison, compare
from conformance.matrix import State
from conformance.record import BadRecord, Record
from conformance.report.versions import FAILING, Tested, in_series


class Verdict(StrEnum):
    """What a series comes to in its newest version, in a word or two."""

    NOTHING_RAN = "NOTHING RAN"
    REGRESSED = "REGRESSED"
    UNEXPLAINED = "UNEXPLAINED FAILURES"
    INCOMPLETE = "INCOMPLETE"
    REDUCED = "REDUCED RUN"
    BUILT = "BUILT, NOT RUN"
    KNOWN = "KNOWN FAILURES"
    GOOD = "ALL PASS"

    @property
    def look(self) -> str:
        """A class of the page's style."""
        return {Verdict.GOOD: "good", Verdict.KNOWN: "known", Verdict.BUILT: "known"}.get(self, "bad")


@dataclass(frozen=True)
class Pair:
    """Two versions of one series, by their numbers on the page, the older first."""

    old: int
    new: int
    found: Comparison

    def count(self, change: Change) -> int:
        return len(self.found.by_change.get(change, ()))


@dataclass(frozen=True)
class Answer:
    """The newest version of a series, and whether to take it, in one sentence with figures."""

    verdict: Verdict
    sentence: str


def pairs(versions: Sequence[Tested]) -> Iterator[Pair]:
    """Every older with every newer version of a series, as far as they have a check in common."""
    for some in in_series(versions):
        for place, (new, newer) in enumerate(some):
            for old, older in some[:place]:
                try:
                    yield Pair(old, new, compare(_record(older), _record(newer)))
                except BadRecord:  # nothing in common that is still the same: no pair
                    continue


def answers(versions: Sequence[Tested], every: Sequence[Pair]) -> Iterator[Answer]:
    """One for each series: its newest version, against the last before it of which anything ran."""
    by_numbers = {(pair.old, pair.new): pair for pair in every}
    for some in in_series(versions):
        at, newest = some[-1]
        earlier = [(number, version) for number, version in some[:-1] if version.ran]
        before = earlier[-1] if earlier else None
        pair = by_numbers.get((before[0], at)) if before else None
        yield Answer(_verdict(newest, pair), _sentence(newest, before[1] if before else None, pair))


def _verdict(newest: Tested, pair: Pair | None) -> Verdict:
    if not newest.ran:
        return Verdict.NOTHING_RAN
    if pair and pair.found.regressed:
        return Verdict.REGRESSED
    if newest.counts[State.UNEXPLAINED]:
        return Verdict.UNEXPLAINED
    if not newest.column.complete or (pair and not pair.found.complete):
        return Verdict.INCOMPLETE
    if any(said.startswith("REDUCED") for said in newest.warnings):
        return Verdict.REDUCED
    if newest.only_built and not newest.failing:
        return Verdict.BUILT
    return Verdict.KNOWN if newest.failing else Verdict.GOOD


def _sentence(newest: Tested, before: Tested | None, pair: Pair | None) -> str:
    on = f" on {newest.where}" if newest.where not in newest.name else ""
    counts = newest.counts
    ran, passed = ("were built", "build") if newest.only_built else ("ran", "pass")
    said = f"of {newest.ran:,} checks that {ran} {counts[State.PASS]:,} {passed}"
    if newest.failing:
        said += f" and {newest.failing:,} fail ({', '.join(_failing(newest))})"
    rest = [f"{counts[state]:,} {state}" for state in (State.REFUSED, State.NOT_RUN) if counts[state]]
    said += f"; {' and '.join(rest)}" if rest else ""
    if before is None:
        return f"{newest.name}{on}: {said}."
    if pair is None or not pair.found.common:
        return f"{newest.name}{on}: {said}; {before.name} has no check in common with it."
    regressed, fixed = (pair.count(change) for change in (Change.REGRESSED, Change.FIXED))
    what = f"of {pair.found.common:,} checks in common {regressed or 'none'} regressed and {fixed or 'none'} got fixed"
    return f"From {before.name} to {newest.name}{on}, {what}; {said}."


def _failing(newest: Tested) -> Iterator[str]:
    words = {State.UNEXPLAINED: "unexplained", State.FINDING: "by known findings", State.GAP: "as declared gaps expect"}
    yield from (f"{newest.counts[state]:,} {words[state]}" for state in FAILING if newest.counts[state])


def _record(version: Tested) -> Record:
    """All that is known of a version as one record."""
    column = version.column
    header = column.records[0].header if column.records else {}
    return Record(header, [result for result in column.results.values() if "case" in result], column.complete)
