"""Columns: everything that records say of one system, joined. Shards, tiers and single checks of it add up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from conformance.aiter_repository import UNKNOWN
from conformance.aiter_source import AiterSource
from conformance.backends import named
from conformance.check import of_tier, shown_on
from conformance.manifest import GROUPS, TIERS
from conformance.plan import joint
from conformance.record import BadRecord, Record, Result, check_id, digest, read
from conformance.status import Status
from conformance.targets import Target


@dataclass(frozen=True)
class System:
    """What records must have in common to be of one column. `package` is what else the backend is a version of."""

    backend: str
    version: str
    commit: str
    target: str
    device: str
    package: str = ""

    @classmethod
    def of(cls, record: Record) -> System:
        aiter, environment = record.run.get("aiter", {}), record.header["environment"]
        backend = str(record.run.get("backend", "?"))
        package = environment.get(backend, "")
        commit = aiter.get("files") or aiter.get("commit", "")  # a digest of the files, where they are no commit's
        return cls(backend, aiter.get("version", ""), commit, record.target,
                   environment.get("device", ""), package)  # fmt: skip

    @property
    def name(self) -> str:
        """As a run calls it; a commit between versions without what git adds."""
        return named(self.backend, self.package, self.version.partition("+")[0])

    @property
    def described(self) -> str:
        """The name, with the commit, the target and the device, as far as they are known."""
        commit = f" ({self.commit[:7]})" if self.commit else ""
        return f"{self.name}{commit}, {self.target}" + (f", {self.device}" if self.device else "")

    @property
    def source(self) -> AiterSource | None:
        """The AITER, as far as its record tells, for the order of versions."""
        try:
            version = str(Version(self.version))
        except InvalidVersion:
            version = UNKNOWN
        return AiterSource(Path(), "record", version, self.commit) if self.version or self.commit else None

    @property
    def place(self) -> Target:
        """The target, as its record names it."""
        kind, _, arch = self.target.partition(":")
        return Target(kind, arch or kind, torch.device("cpu"))


def order(version: str) -> tuple[bool, Version]:
    """Sorts texts by the version that they are; those that are none come last."""
    try:
        return False, Version(version)
    except InvalidVersion:
        return True, Version("0")


@dataclass(frozen=True)
class Column:
    """A system, and its results by check id. Complete if every plan that was begun has all its results.

    What is known to be planned, and has no result, is NOT RUN.
    """

    system: System
    results: dict[str, Result]
    complete: bool
    records: tuple[Record, ...] = ()  # that were joined


def of_records(paths: Sequence[Path]) -> list[Column]:
    """One for each system, in the order in which records name them first.

    Raises BadRecord for a file that is none, for two results or two paths of one check on one system, and for a check
    whose inputs or oracle are not the same in all records.
    """
    return joined([(path, read(path)) for path in dict.fromkeys(paths)])


def joined(records: Sequence[tuple[Path, Record]]) -> list[Column]:
    """As `of_records`, of records that were read from these files."""
    by_system: dict[System, list[tuple[Path, Record]]] = defaultdict(list)
    for path, record in records:
        by_system[System.of(record)].append((path, record))
    _refuse_edited(records)
    return [_column(system, some) for system, some in by_system.items()]


def _column(system: System, some: list[tuple[Path, Record]]) -> Column:
    results, cut = _results(some), _cut(record for _, record in some)
    lacking = {"status": str(Status.NOT_RUN), "reason": "its run was cut short, or its shard is missing"}
    for plan in cut:
        results |= {check: lacking for check in _planned(plan, system.place.kind) if check not in results}
    return Column(system, results, not cut, tuple(record for _, record in some))


def _results(some: list[tuple[Path, Record]]) -> dict[str, Result]:
    """All results; one that was not run gives way to one that was."""
    results: dict[str, tuple[Path, Result]] = {}
    for path, record in some:
        for result in record.cases:
            before, one = results.get(check := check_id(result), (path, result))
            if Status.NOT_RUN not in (one["status"], result["status"]):
                _refuse_different((before, one), (path, result))
            if check not in results or one["status"] == Status.NOT_RUN:
                results[check] = path, result
    return {check: result for check, (_, result) in results.items()}


def _refuse_different(first: tuple[Path, Result], other: tuple[Path, Result]) -> None:
    """One system answers a check in one way, by one path: two of either are of two systems, whatever their names."""
    for what, plural in (("status", "results"), ("path", "paths")):
        told = [result.get(what) or "none" for _, result in (first, other)]
        if told[0] != told[1]:
            raise BadRecord(f"{first[0]} and {other[0]} have different {plural} of {check_id(other[1])} on one system: "
                            f"{told[0]} and {told[1]}")  # fmt: skip


def _cut(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The plans of which not all results are there, in one record or in several together."""
    plans: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        plans[str(_plan(record).get("digest"))].append(record)
    return [_plan(some[0]) for digest, some in plans.items()
            if not any(map(_is_whole, some)) and not _hold(digest, some)]  # fmt: skip


def _is_whole(record: Record) -> bool:
    return record.complete and "shard" not in _plan(record)


def _plan(record: Record) -> dict[str, Any]:
    """What its run was a part of; nothing where its header does not say."""
    plan = record.run.get("plan")
    return plan if isinstance(plan, dict) else {}


def _hold(plan: str, records: Iterable[Record]) -> bool:
    return joint(result.get("digest", "") for record in records for result in record.cases) == plan


def _planned(plan: dict[str, Any], kind: str) -> list[str]:
    """The checks of a plan, if it is that of a tier or a group of this version of the suite; else nobody knows them."""
    tier = str(plan.get("title")).removeprefix("tier ")
    if tier not in (*TIERS, *GROUPS):
        return []
    checks = shown_on(kind, of_tier(tier))
    return [check.id for check in checks] if joint(map(digest, checks)) == plan.get("digest") else []


def _refuse_edited(some: Sequence[tuple[Path, Record]]) -> None:
    digests: dict[str, tuple[Path, str]] = {}
    for path, record in some:
        for result in record.cases:
            key = result.get("digest", "")
            first, other = digests.setdefault(check := check_id(result), (path, key))
            if key != other:
                raise BadRecord(f"{first} and {path} cannot stand side by side: the inputs or the oracle of {check} "
                                "are of another version")  # fmt: skip
