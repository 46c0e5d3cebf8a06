"""Cells: what the checks of one path and one feature came to on one system, and what explains those that fail."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from itertools import chain

from conformance import features
from conformance.case import BadCase
from conformance.check import Check
from conformance.expectations.entries import committed as declared
from conformance.expectations.findings import Finding, committed
from conformance.expectations.order import within
from conformance.features import FEATURES, Feature
from conformance.matrix.columns import Column
from conformance.matrix.paths import NONE, SEVERAL, paths, places, taken_by
from conformance.record import BadRecord, Result, fails
from conformance.status import Status
from conformance.summary import status_word

GRAVITY = (Status.CRASH, Status.MISMATCH, Status.NONFINITE, Status.MALFORMED, Status.NONDETERMINISTIC, Status.TIMEOUT,
           Status.ERROR, Status.RESOURCE)  # fmt: skip
"""Ways to fail, the worst first."""

_PLACE = re.compile(r" \([^() ]+:\d+ in [^() ]+\)$")
"""Where an exception was raised: it moves from version to version."""

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
"""Reasons of a refusal that differ in these alone are one."""


class State(StrEnum):
    """What a check came to, the worst first; and a cell, whose state is that of its worst check."""

    UNEXPLAINED = "unexplained"  # it fails, or a declared gap closed, and nothing says why
    FINDING = "known"  # it fails, as docs/findings.md explains
    GAP = "expected"  # it fails as declared
    NOT_RUN = "not run"
    REFUSED = "refused"  # UNSUPPORTED
    PASS = "passed"


@dataclass(frozen=True)
class Note:
    """What explains some checks: a reason for a refusal, a declared gap, a finding."""

    state: State
    reason: str
    issue: str = ""


@dataclass(frozen=True)
class Came:
    """What one check came to in one column."""

    check: str
    state: State
    word: str  # the status, or `PASS, not ERROR`
    note: Note | None = None
    reason: str = ""
    about: tuple[str, ...] = ()  # the features that a finding is about: it says nothing about others of the check


@dataclass(frozen=True)
class Cell:
    """The checks of one row in one column; none where what the row asks goes another way in that column."""

    came: tuple[Came, ...] = ()

    @property
    def counts(self) -> Counter[State]:
        return Counter(one.state for one in self.came)

    @property
    def total(self) -> int:
        return len(self.came)

    @property
    def ran(self) -> int:
        counts = self.counts
        return self.total - counts[State.NOT_RUN] - counts[State.REFUSED]

    @property
    def state(self) -> State | None:
        """That of the worst check; None for an empty cell."""
        return min((one.state for one in self.came), key=list(State).index, default=None)

    @property
    def worst(self) -> str:
        """The worst way to fail, in the record's own word; "" where nothing does."""
        failing = {one.word for one in self.came if one.state in (State.UNEXPLAINED, State.FINDING, State.GAP)}
        return next((status for status in GRAVITY if status in failing), min(failing, default=""))

    @property
    def notes(self) -> list[Note]:
        return list(dict.fromkeys(one.note for one in self.came if one.note))


@dataclass(frozen=True)
class Row:
    """A path and a feature, with a cell for each column."""

    path: str
    feature: Feature
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows by path and feature over columns; and what each check came to in each column, by its id."""

    columns: list[Column]
    rows: list[Row]
    came: list[dict[str, Came]] = field(repr=False)

    @property
    def unexplained(self) -> list[tuple[Column, Came]]:
        """Each failing check that nothing explains, once, though it may be in many rows."""
        return [(column, one) for column, came in zip(self.columns, self.came, strict=True)
                for one in came.values() if one.state is State.UNEXPLAINED]  # fmt: skip

    @property
    def complete(self) -> bool:
        return all(column.complete for column in self.columns)

    @property
    def anything_ran(self) -> bool:
        return any(one.state not in (State.NOT_RUN, State.REFUSED) for came in self.came for one in came.values())

    def example(self, note: Note) -> str:
        """A check that shows it: word for word if one does, a case rather than a relation, and the shortest id."""
        return self._examples[note]

    @cached_property
    def _examples(self) -> dict[Note, str]:
        showing: dict[Note, list[Came]] = defaultdict(list)
        for came in self.came:
            for one in came.values():
                if one.note:
                    showing[one.note].append(one)
        return {note: min(some, key=partial(_shows, note)).check for note, some in showing.items()}


def _shows(note: Note, one: Came) -> tuple[bool, bool, int, str]:
    """How well a check shows a note: the lowest is the best."""
    return one.reason != note.reason, "/" in one.check, len(one.check), one.check


def matrix(columns: Sequence[Column], findings: Iterable[Finding] | None = None) -> Matrix:
    """The matrix of columns; each has a result, or "not run", for every check that one of them has.

    Raises BadRecord for a check that this version of the suite does not know.
    """
    findings = committed() if findings is None else tuple(findings)
    checks = {name: _parsed(name) for name in dict.fromkeys(chain(*(column.results for column in columns)))}
    having = {name: features.of(check, [column.results.get(name, {}) for column in columns])
              for name, check in checks.items()}  # fmt: skip
    cells: dict[tuple[str, str], list[list[Came]]] = defaultdict(lambda: [[] for _ in columns])
    everything: list[dict[str, Came]] = []
    refusals: dict[str, str] = {}
    for at, column in enumerate(columns):
        ways = paths(checks, column.results)
        explain = _Explained(column, findings, refusals)
        came = {name: explain.came(name, having[name], ways[name]) for name in checks}
        everything.append(came)
        for name, one in came.items():
            for path, feature in places(ways[name], having[name]):
                cells[path, feature.name][at].append(one)
    order = sorted({path for path, _ in cells}, key=lambda path: (path in (SEVERAL, NONE), path == NONE, path))
    rows = [Row(path, feature, tuple(Cell(tuple(some)) for some in cells[path, feature.name]))
            for path in order for feature in FEATURES if (path, feature.name) in cells]  # fmt: skip
    return Matrix(list(columns), rows, everything)


def _parsed(name: str) -> Check:
    try:
        return Check.parse(name)
    except BadCase as unknown:
        raise BadRecord(f"this version of the suite does not know a check of the records: {unknown}") from unknown


class _Explained:
    """Says of each check of a column what it came to. `refusals` has the first of all reasons that are alike."""

    def __init__(self, column: Column, findings: Iterable[Finding], refusals: dict[str, str]) -> None:
        self._refusals = refusals
        self._results: Mapping[str, Result] = column.results
        system = column.system
        self._findings = [finding for finding in findings if finding.concerns(system.backend, system.place)
                          and within(finding.failure, system.source)]  # fmt: skip
        self._gaps = [gap for gap in declared(system.backend)
                      if gap.concerns(system.place) and within(gap, system.source)]  # fmt: skip

    def came(self, name: str, having: Sequence[Feature], paths: Sequence[str]) -> Came:
        """Of the check of that name, with these features, that took or would have taken these paths."""
        result = self._results.get(name)
        if result is None or result["status"] == Status.NOT_RUN:
            return Came(name, State.NOT_RUN, Status.NOT_RUN, reason=(result or {}).get("reason", ""))
        status, reason = result["status"], result.get("reason", "")
        if not fails(result):
            if status == Status.UNSUPPORTED:
                reason = _PLACE.sub("", reason)
                first = self._refusals.setdefault(_NUMBER.sub("#", reason), reason)
                return Came(name, State.REFUSED, status, Note(State.REFUSED, first), reason)
            if status == Status.PASS:
                return Came(name, State.PASS, status)
            expected = result["expected"]
            return Came(name, State.GAP, status, Note(State.GAP, expected["reason"], expected["issue"]), reason)
        for gap in self._gaps:  # declared since the record was made
            if "expected" not in result and gap.status == status and gap.matches(name):
                return Came(name, State.GAP, status, Note(State.GAP, gap.reason, gap.issue), reason)
        concerned = {*paths, *chain(*taken_by(result))}
        for finding in self._findings:
            if any(finding.explains(name, having, path, status) for path in concerned):
                note = Note(State.FINDING, finding.failure.reason, finding.failure.issue)
                return Came(name, State.FINDING, status, note, reason, tuple(one.name for one in finding.features))
        return Came(name, State.UNEXPLAINED, status_word(result), reason=reason)
