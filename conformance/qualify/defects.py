"""What is wrong with some of the versions: each finding and each declared gap, and the versions that it was seen in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conformance.matrix.cells import Came, Note, State
from conformance.qualify.spans import Way, seen
from conformance.status import YET_RIGHT

OfVersion = Mapping[str, Came]
"""What each check came to with one version, by its id."""


@dataclass(frozen=True)
class Defect:
    """A reason for which checks fail. `counts` has their number in each version, None where none of them ran."""

    reason: str
    issue: str
    is_gap: bool  # declared, so that it fails no run
    statuses: tuple[str, ...]
    counts: tuple[int | None, ...]
    check: str  # the simplest of them, in the last version that has it
    seen: str


def defects(versions: Sequence[str], came: Sequence[OfVersion | None]) -> list[Defect]:
    """Of all versions, in their order; those first that the last of them has, and of these those that fail most.

    `came` has None for a version that was not run.
    """
    showing: dict[Note, list[dict[str, Came]]] = defaultdict(lambda: [{} for _ in versions])
    for at, of_version in enumerate(came):
        for name, one in (of_version or {}).items():
            if one.note and one.state in (State.FINDING, State.GAP):
                showing[one.note][at][name] = one
    found = [_defect(versions, came, note, some) for note, some in showing.items()]
    return sorted(found, key=lambda one: tuple(-(count or 0) for count in reversed(one.counts)))


def _defect(
    versions: Sequence[str], came: Sequence[OfVersion | None], note: Note, showing: Sequence[Mapping[str, Came]]
) -> Defect:
    checks = {name for some in showing for name in some}
    counts = [
        len(some) if some or _ran(of_version, checks) else None for some, of_version in zip(showing, came, strict=True)
    ]
    ways = [Way.UNKNOWN if count is None else Way.BROKEN if count else Way.WORKS for count in counts]
    last = next(some for some in reversed(showing) if some)
    statuses = Counter(one.word for some in showing for one in some.values())
    simplest = min(last, key=lambda name: ("/" in name, len(name), name))
    return Defect(
        note.reason, note.issue, note.state is State.GAP, tuple(sorted(statuses)), tuple(counts), simplest,
        seen(versions, ways),
    )  # fmt: skip


def _ran(of_version: OfVersion | None, checks: set[str]) -> bool:
    """Did any of the checks run with that version, claimed or not, so that the defect would have been seen?"""
    return of_version is not None and any(_answered(of_version[name]) for name in checks if name in of_version)


def _answered(one: Came) -> bool:
    if one.state is State.REFUSED:
        return one.reason.endswith(YET_RIGHT)
    return one.state is not State.NOT_RUN
