"""Versions: the columns of the page in their order, and what a reader must know of each before trusting its figures."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

from conformance.matrix import Column, Matrix, State, matrix
from conformance.matrix.cells import Came
from conformance.matrix.columns import order
from conformance.qualify.table import Setting, cause
from conformance.record import Record
from conformance.summary import duration

FAILING = (State.UNEXPLAINED, State.FINDING, State.GAP)
"""What is red, whether or not something explains it."""

RAN = (*FAILING, State.PASS)

RERUN = ("--backend", "--target", "--aiter")
"""Options of a run that one check of it needs again."""


@dataclass(frozen=True)
class Tested:
    """One system on the page: a column of the matrix, and what its checks came to. `name` is no other's here."""

    name: str
    column: Column = field(repr=False)
    came: dict[str, Came] = field(repr=False)
    asked: frozenset[str] = field(default=frozenset(), repr=False)
    """Checks that its series was asked for: what runs elsewhere alone is not its concern."""
    lacks: int = 0
    """Checks that another version of its series has a result of, and it has not."""

    @cached_property
    def counts(self) -> Counter[State]:
        return Counter(one.state for name, one in self.came.items() if name in self.asked)

    @property
    def only_built(self) -> bool:
        """Was it compiled, and never run?"""
        return self.column.system.place.kind == "compile"

    @property
    def ran(self) -> int:
        return sum(self.counts[state] for state in RAN)

    @property
    def failing(self) -> int:
        return sum(self.counts[state] for state in FAILING)

    @property
    def series(self) -> Setting:
        """Versions that differ in nothing else stand in one series, and only those are compared."""
        return _series(self.column)

    @property
    def where(self) -> str:
        return ", ".join(filter(None, (self.series.target, self.series.device)))

    @property
    def by(self) -> str:
        """What ran it, beside AITER."""
        return ", ".join(f"{name} {version}" for name, version in (("torch", self.series.torch),
                         ("Triton", self.series.triton)) if version)  # fmt: skip

    @property
    def version(self) -> str:
        """As a sentence about several versions has it."""
        return self.column.system.version.partition("+")[0] or self.name

    @property
    def plans(self) -> str:
        """`tier core`; several, and shards, with commas."""
        return ", ".join(dict.fromkeys(_plan(record) for record in self.column.records))

    @property
    def started(self) -> str:
        """The day of its first run."""
        return min((str(record.header.get("started", "")) for record in self.column.records), default="")[:10]

    @property
    def took(self) -> str:
        seconds = [record.seconds for record in self.column.records if record.seconds is not None]
        return duration(sum(seconds)) if seconds else ""

    @property
    def options(self) -> tuple[str, ...]:
        """What a command that runs one of its checks again says besides."""
        given = self.column.records[0].options
        return tuple(word for name, value in given.items() if name in RERUN for word in (name, value))

    @property
    def command(self) -> str:
        """Runs one of its checks again; the id goes behind."""
        return shlex.join(["python", "-m", "conformance", "run", *self.options, "--case"])

    @property
    def warnings(self) -> Iterator[str]:
        """Why its figures say less than they seem to."""
        if not self.column.complete:
            yield "INCOMPLETE: a run was cut short, or a shard is missing"
        for record in self.column.records:
            plan = record.run.get("plan")
            if not isinstance(plan, dict):
                continue
            title = str(plan.get("title"))
            if not title.startswith("tier "):
                yield f"REDUCED: {title}, not a tier"
            if "shard" not in plan and (left := plan.get("checks", 0) - record.header["planned"]) > 0:
                yield f"REDUCED: {left} of {plan['checks']} checks of {title} were deselected"
        if why := cause([self.column]):
            yield f"NOT RUN: {why}"
        elif self.lacks:
            yield f"REDUCED: {self.lacks} checks that another version of its kind has were not run"
        if self.only_built:
            yield "BUILT, NOT RUN: this says nothing about numbers"


def tested(some: Sequence[Column]) -> tuple[Matrix, list[Tested]]:
    """The matrix of the columns, in the order of series and versions, and what stands at the head of each.

    Raises BadRecord for a check that this version of the suite does not know.
    """
    found = matrix(_ordered(some))
    asked: dict[Setting, set[str]] = defaultdict(set)
    for column in found.columns:
        asked[_series(column)].update(column.results)
    columns = zip(_names(found.columns), found.columns, found.came, _lacking(found), strict=True)
    versions = [
        Tested(name, column, came, frozenset(asked[_series(column)]), lacks) for name, column, came, lacks in columns
    ]
    return found, versions


def in_series(versions: Iterable[Tested]) -> list[list[tuple[int, Tested]]]:
    """Versions, each with its number on the page, by series."""
    return [list(some) for _, some in groupby(enumerate(versions), key=lambda pair: pair[1].series)]


def _ordered(columns: Sequence[Column]) -> list[Column]:
    """By series in the order in which they were named, and within one by version; those without one last."""
    series = list(dict.fromkeys(_series(column) for column in columns))
    return sorted(
        columns,
        key=lambda column: (series.index(_series(column)), order(column.system.version), column.system.package),
    )


def _series(column: Column) -> Setting:
    return replace(Setting.of(column.records[0]), package="")


def _names(columns: Sequence[Column]) -> Iterator[str]:
    """As a run calls them; where that is not enough, with the commit; else with a number."""
    plain = [column.system.name for column in columns]
    full = [
        f"{name} ({column.system.commit[:7]})" if column.system.commit and _twins(at, columns) else name
        for at, (name, column) in enumerate(zip(plain, columns, strict=True))
    ]
    targets = {column.system.target for column in columns}
    whole = [
        f"{name}, {column.system.target}" if len(targets) > 1 else name
        for name, column in zip(full, columns, strict=True)
    ]
    seen: Counter[str] = Counter()
    for name in whole:
        seen[name] += 1
        yield f"{name} #{seen[name]}" if whole.count(name) > 1 else name


def _twins(at: int, columns: Sequence[Column]) -> bool:
    own = columns[at].system
    return any(other != at and (column.system.name, column.system.target) == (own.name, own.target)
               for other, column in enumerate(columns))  # fmt: skip


def _lacking(found: Matrix) -> Iterator[int]:
    """Of each column, how many checks have a result elsewhere in its series, and none in it."""
    having: dict[Setting, set[str]] = defaultdict(set)
    for column, came in zip(found.columns, found.came, strict=True):
        having[_series(column)].update(name for name, one in came.items() if one.state is not State.NOT_RUN)
    for column, came in zip(found.columns, found.came, strict=True):
        yield sum(came[name].state is State.NOT_RUN for name in having[_series(column)])


def _plan(record: Record) -> str:
    plan = record.run.get("plan")
    if not isinstance(plan, dict):
        return "?"
    return str(plan.get("title")) + (f", shard {plan['shard']}" if "shard" in plan else "")
