"""Notes: what explains failures and refusals, in which version each still does, and which gaps have closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conformance.matrix import Matrix, State
from conformance.matrix.cells import Note
from conformance.report.versions import FAILING, Tested, in_series


@dataclass(frozen=True)
class Explained:
    """One note over all versions: of the checks that it explains anywhere, what they come to in each."""

    number: int
    note: Note
    example: str
    checks: int
    counts: tuple[Counter[str], ...]  # by version: "shown", "pass", "other", "not run"
    closed: tuple[str, ...]  # the first version of each series from which on all of them pass

    @property
    def is_closed(self) -> bool:
        """Does it explain nothing any more in the newest version of a series, all of its checks passing?"""
        return bool(self.closed)


def explained(found: Matrix, versions: Sequence[Tested]) -> Iterator[Explained]:
    """All notes, numbered in the order of the table's cells: findings first, then gaps, then refusals."""
    seen = {one.note for came in found.came for one in came.values() if one.note}
    order = sorted(seen, key=lambda note: (list(State).index(note.state), note.reason))
    for number, note in enumerate(order, 1):
        checks = {name for came in found.came for name, one in came.items() if one.note == note}
        counts = tuple(_counts(note, version, checks) for version in versions)
        yield Explained(number, note, found.example(note), len(checks), counts, tuple(_closed(counts, versions)))


def stale(versions: Sequence[Tested]) -> list[tuple[str, str, str]]:
    """Version, check and entry of each declared gap that closed: the check passes, and its run fails for it."""
    return [
        (version.name, name, result["expected"]["entry"])
        for version in versions
        for name, result in version.column.results.items()
        if "expected" in result and result["status"] == "PASS"
    ]


def _counts(note: Note, version: Tested, checks: set[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for check in checks:
        one = version.came[check]
        if one.note == note:
            counts["shown"] += 1
        elif one.state is State.PASS:
            counts["pass"] += 1
        else:
            counts["other" if one.state in (*FAILING, State.REFUSED) else "not run"] += 1
    return counts


def _closed(counts: Sequence[Counter[str]], versions: Sequence[Tested]) -> Iterator[str]:
    """For each series that had it, and whose newest versions pass all that ran: the first of those."""
    for some in in_series(versions):
        since, short = "", ""
        for at, version in reversed(some):
            came = set(+counts[at]) - {"not run"}
            if came == {"pass"}:
                since, short = version.name, ", as far as it ran" if counts[at]["not run"] else short
            elif came:
                if since and counts[at]["shown"]:
                    yield since + short
                break
