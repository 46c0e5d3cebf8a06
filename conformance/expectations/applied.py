"""Expectations in one run: which entry applies to which check, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from conformance import manifest
from conformance.check import of_tier
from conformance.expectations.entries import BadExpectations, Expectation, committed, read
from conformance.expectations.order import within
from conformance.system import System
from conformance.targets import TargetError, find


@dataclass(frozen=True)
class Applied:
    """The entries that apply in a run, by the id of the check, and what a person should know of them beforehand."""

    by_check: dict[str, Expectation] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, check_id: str) -> Expectation | None:
        return self.by_check.get(check_id)


def asked_for(backend: str, files: Iterable[str], *, with_committed: bool) -> list[Expectation]:
    """The entries of the backend's own list, if that is wanted, and of these files. Raises BadExpectations."""
    entries = committed(backend) if with_committed else []
    return entries + [entry for name in dict.fromkeys(files) for entry in read(Path(name), name)]


def applying(entries: Iterable[Expectation], system: System, check_ids: Sequence[str]) -> Applied:
    """What applies to these checks on this system. Raises BadExpectations if two entries apply to one of them."""
    try:
        target = find(system.target_spec)
    except TargetError:  # nothing will run there, and every result says why
        return Applied()
    by_check: dict[str, Expectation] = {}
    unjudged = []
    for entry in entries:
        if not entry.concerns(target) or (applies := within(entry, system.source)) is False:
            continue
        matched = [check_id for check_id in check_ids if entry.matches(check_id)]
        if applies is None and matched:
            unjudged.append(entry)
        elif applies:
            for check_id in matched:
                if other := by_check.get(check_id):
                    raise BadExpectations(f"{other.place}, and {entry.place}, both apply to {check_id}")
                by_check[check_id] = entry
    return Applied(by_check, tuple(_notes(by_check, unjudged, system)))


def refuse_idle(entries: list[Expectation], check_ids: Sequence[str]) -> None:
    """Raises BadExpectations for a glob that does nothing, on these checks and on those of every tier."""
    for entry in entries:
        idle: list[str] = []
        for ids in _wider_and_wider(check_ids):
            idle = entry.idle_globs(ids)
            if not idle:
                break
        if idle:
            does = "takes out no check that another glob matches" if idle[0].startswith("!") else "matches no check"
            raise BadExpectations(f"{entry.place}: {idle[0]!r} {does}, in any tier: mend or delete it")


@cache
def of_every_tier() -> tuple[str, ...]:
    """The ids of all checks, in half a second."""
    return tuple(dict.fromkeys(check.id for tier in manifest.TIERS for check in of_tier(tier)))


def _wider_and_wider(check_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """These checks; with them those that manifests list; with them those that tiers draw, which takes longest."""
    yield check_ids
    yield [*check_ids, *(line for name in ("full.txt", "relations.txt") for line in manifest.entries(name, str))]
    yield [*check_ids, *of_every_tier()]


def _notes(by_check: dict[str, Expectation], unjudged: list[Expectation], system: System) -> Iterator[str]:
    if by_check:
        yield f"{len(by_check)} gap{'s' if len(by_check) > 1 else ''} expected, by {_places(by_check.values())}"
    if unjudged:
        aiter = f"AITER {system.source.described}" if system.source else f"{system.name}, which has no AITER,"
        yield (
            f"not expected, since nobody can tell whether {aiter} is among the versions of the gap: {_places(unjudged)}"
        )


def _places(entries: Iterable[Expectation]) -> str:
    """`aiter.toml, entries 1, 2 and 4; mine.toml, entry 1`."""
    numbers: dict[str, list[str]] = {}
    for place in dict.fromkeys(entry.place for entry in entries):
        name, _, number = place.rpartition(", entry ")
        numbers.setdefault(name, []).append(number)
    return "; ".join(f"{name}, {_entries(some)}" for name, some in numbers.items())


def _entries(numbers: list[str]) -> str:
    *most, last = sorted(numbers, key=int)
    return f"entries {', '.join(most)} and {last}" if most else f"entry {last}"
