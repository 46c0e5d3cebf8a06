"""What the page shows, made from records: everything but how it looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conformance import features
from conformance.check import Check
from conformance.features import Feature
from conformance.matrix import Cell, State, of_records
from conformance.matrix.cells import Note
from conformance.qualify.claims import claimed
from conformance.report.changes import Answer, Pair, answers, pairs
from conformance.report.heat import HeatMap, main_maps
from conformance.report.margins import Margin, margins
from conformance.report.notes import Explained, explained, stale
from conformance.report.sides import Side, sides
from conformance.report.versions import FAILING, Tested, in_series, tested
from conformance.summary import FIGURES


@dataclass(frozen=True)
class Row:
    """A feature over all versions: its checks, by their numbers, and a cell for each version."""

    feature: Feature
    checks: tuple[int, ...]
    cells: tuple[Cell, ...]
    claims: tuple[str, ...]  # in which versions of each series it works, in words; "" where too few were tried


@dataclass(frozen=True)
class Failure:
    """One check that fails somewhere, with what is known of it in each version where it does, by its number."""

    check: int
    id: str
    state: State  # the worst, in the newest versions if it fails there
    is_new: bool  # it fails in the newest version of a series
    texts: tuple[tuple[tuple[int, ...], str, int | None], ...]  # versions, what is said of all of them, a note's number


@dataclass(frozen=True)
class Page:
    """All of it."""

    versions: list[Tested]
    checks: list[str]
    sides: list[Side]
    rows: list[Row]
    maps: list[tuple[Tested, list[HeatMap]]]  # of the newest version of each series
    margins: list[tuple[Tested, list[Margin]]]
    pairs: list[Pair]
    answers: list[Answer]
    failures: list[Failure]
    notes: list[Explained]
    stale: list[tuple[str, str, str]]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Version, and why it says less than it seems to."""
        return [(version.name, said) for version in self.versions for said in version.warnings]

    @property
    def series(self) -> list[list[tuple[int, Tested]]]:
        return in_series(self.versions)

    @property
    def newest(self) -> list[int]:
        """The newest version of each series."""
        return [some[-1][0] for some in self.series]

    @property
    def claims(self) -> bool:
        """Is anything said about spans of versions?"""
        return any(said for row in self.rows for said in row.claims)

    def pair(self, old: int, new: int) -> Pair | None:
        """What changed between two versions, by their numbers; None for two that nobody compares."""
        return self._pairs.get((old, new))

    def worst(self, row: Row, version: int) -> int | None:
        """The number of the worst check of a cell, if any of it fails."""
        cell = row.cells[version]
        if (worst := cell.state) not in FAILING:
            return None
        check = next(one.check for one in cell.came if one.state is worst)
        return next(at for at in row.checks if self.checks[at] == check)

    def fails_in(self, failure: Failure) -> int:
        """In how many versions it fails."""
        return sum(len(some) for some, _, _ in failure.texts)

    def named(self, some: Sequence[int]) -> str:
        """Names of versions, by their numbers."""
        return ", ".join(self.versions[at].name for at in some)

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], Pair]:
        return {(pair.old, pair.new): pair for pair in self.pairs}

    @property
    def numbers(self) -> dict[Note, int]:
        return {one.note: one.number for one in self.notes}


def page(paths: Sequence[Path]) -> Page:
    """The page of these records. Raises BadRecord for one that is none, or that cannot stand beside another."""
    found, versions = tested(of_records(paths))
    names = list(found.came[0])
    checks = [Check.parse(name) for name in names]
    differ = sides(checks)
    newest = [versions[some[-1][0]] for some in in_series(versions)]
    every = list(pairs(versions))
    notes = list(explained(found, versions))
    return Page(
        versions=versions,
        checks=names,
        sides=differ,
        rows=list(_rows(versions, dict(zip(names, checks, strict=True)))),
        maps=[(version, list(main_maps(version, names, differ))) for version in newest],
        margins=[(version, some) for version in versions if (some := list(margins(version)))],
        pairs=every,
        answers=list(answers(versions, every)),
        failures=_failures(versions, newest, names, {one.note: one.number for one in notes}),
        notes=notes,
        stale=stale(versions),
    )


def _rows(versions: Sequence[Tested], checks: Mapping[str, Check]) -> Iterator[Row]:
    """A feature whichever path it goes."""
    number = {name: at for at, name in enumerate(checks)}
    for feature, own in features.by_feature(checks, [version.column.results for version in versions]):
        # What its series was not asked for is no concern of a version: a relation where kernels are only built.
        cells = tuple(Cell(tuple(version.came[name] for name in own if name in version.asked)) for version in versions)
        yield Row(feature, tuple(number[name] for name in own), cells, tuple(_claims(feature, versions, cells)))


def _claims(feature: Feature, versions: Sequence[Tested], cells: Sequence[Cell]) -> Iterator[str]:
    for some in in_series(versions):
        yield claimed(feature.name, [version.version for _, version in some], [cells[at] for at, _ in some])


def _failures(
    versions: Sequence[Tested], newest: Sequence[Tested], names: Sequence[str], numbers: Mapping[Note, int]
) -> list[Failure]:
    """Those of the newest versions first; the worst first."""
    found = []
    for at, name in enumerate(names):
        states = [version.came[name].state for version in versions]
        if not any(state in FAILING for state in states):
            continue
        now = [state for version in newest if (state := version.came[name].state) in FAILING]
        worst = min(now or states, key=list(State).index)
        found.append(Failure(at, name, worst, bool(now), _texts(versions, name, numbers)))
    return sorted(found, key=lambda one: (not one.is_new, list(State).index(one.state), one.check))


def _texts(
    versions: Sequence[Tested], name: str, numbers: Mapping[Note, int]
) -> tuple[tuple[tuple[int, ...], str, int | None], ...]:
    """What failed how, versions of which the same is said together, the newest first."""
    together: dict[tuple[str, int | None], list[int]] = {}
    for number, version in reversed(list(enumerate(versions))):
        one = version.came[name]
        if one.state in FAILING:
            said = text(one.word, version.column.results[name])
            together.setdefault((said, numbers[one.note] if one.note else None), []).append(number)
    return tuple((tuple(some), said, note) for (said, note), some in together.items())


def text(word: str, result: Mapping[str, Any]) -> str:
    """A failure in lines, as a run prints it, as far as a record has it."""
    lines = [word + (f"  ({result['path']})" if result.get("path") else "")]
    lines += [f"what   {said}" for said in [result.get("reason")] if said]
    lines += [f"key    {said}" for said in [result.get("evidence")] if said]
    figures = [f"{shown} {result[name]:.4g}" for name, shown in FIGURES.items() if name in result]
    lines += [f"worst  {', '.join(figures)}"] if figures else []
    if expected := result.get("expected"):
        lines.append(f"gap    {expected['status']} was expected: {expected['reason']} ({expected['entry']})")
    return "\n".join(lines)
