"""Comparing two records: what a change of AITER, of a kernel or of a machine did to each check.

Checks are compared by their digest: one whose inputs, or whose oracle, are another version's is no longer the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from conformance.record import BadRecord, Record, check_id
from conformance.status import Status

GROWTH = 1.5
"""A figure of a pass drifts if it grows to so many times what it was ..."""

FLOOR = {"bound": 0.25, "noise": 0.5}
"""... and above this. The limits are 1 and 1.25; below a floor a figure tells of a case, not of its kernel."""

RESOURCES = ("vgpr_spills", "sgpr_spills", "lds")
"""What a built kernel needs, of which more is drift."""


class Change(StrEnum):
    """What became of a check; the gravest first."""

    REGRESSED = "REGRESSED"  # it passed, or was declined, and fails; or it passed, and is declined
    CHANGED_KIND = "CHANGED KIND"  # it still does not pass, for another reason
    DRIFT = "DRIFT"  # it passes, with less room or more resources
    MISSING = "MISSING"  # it had a result, and has none
    EDITED = "EDITED"  # its inputs, oracle or relation are another version's
    FIXED = "FIXED"  # it did not pass, and does
    NEW = "NEW"


@dataclass(frozen=True)
class Changed:
    """One check that is not what it was."""

    change: Change
    check: str
    how: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two records, and what changed from one to the other."""

    old: Record
    new: Record
    changes: list[Changed]
    common: int  # checks with a result in both

    @property
    def regressed(self) -> bool:
        return any(changed.change is Change.REGRESSED for changed in self.changes)

    @property
    def by_change(self) -> dict[Change, list[Changed]]:
        """Only what there is, the gravest first."""
        some = {change: [one for one in self.changes if one.change is change] for change in Change}
        return {change: found for change, found in some.items() if found}

    @property
    def verdict(self) -> str:
        """One sentence, that begins with what it comes to."""
        said = ", ".join(f"{len(some)} {change.lower()}" for change, some in self.by_change.items())
        what = f"of {self.common} checks in common: {said or 'all as they were'}"
        if not self.common:
            return "NOTHING COMPARED: the records have no check in common."
        if self.regressed:
            return f"REGRESSED: {what}."
        if not self.complete:
            return f"INCOMPLETE: {what}; what the cut record lacks may have regressed."
        return f"NO REGRESSION: {what}." if self.changes else f"EQUAL: {what}."

    @property
    def complete(self) -> bool:
        """Is either record all that its run had planned? What is not there cannot be said to be as it was."""
        return self.old.complete and self.new.complete


def compare(old: Record, new: Record) -> Comparison:
    """What changed. Raises BadRecord where no check is the same in both: inputs or oracle are another version's."""
    if len(set(map(_only_built, (old, new)))) > 1:
        raise BadRecord("one of the records was run and the other only built: what builds says nothing about numbers")
    before, after = ({check_id(r): r for r in record.cases if r["status"] != Status.NOT_RUN} for record in (old, new))
    both = [check for check in after if check in before]
    edited = {check for check in both if before[check].get("digest") != after[check].get("digest")}
    if both and len(edited) == len(both):
        raise BadRecord(
            f"nothing can be compared: in all {len(both)} checks that both records have, "
            "the inputs or the oracle are of another version"
        )
    changes = [Changed(Change.MISSING, check) for check in before if check not in after]
    for check, result in after.items():
        if check not in before:
            changes.append(Changed(Change.NEW, check, _status(result)))
        elif check in edited:
            changes.append(Changed(Change.EDITED, check))
        elif change := _change(before[check], result):
            changes.append(Changed(change, check, f"{_status(before[check])} -> {_status(result)}"))
        elif drift := "; ".join(_drift(before[check], result)):
            changes.append(Changed(Change.DRIFT, check, drift))
    return Comparison(old, new, changes, len(both) - len(edited))


def _only_built(record: Record) -> bool:
    return record.target.startswith("compile")


def _change(old: dict[str, Any], new: dict[str, Any]) -> Change | None:
    was, now = Status(old["status"]), Status(new["status"])
    if was is now:
        return None
    if now is Status.PASS:
        return Change.FIXED
    if was.conformant:
        return Change.REGRESSED
    return Change.CHANGED_KIND


def _drift(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if new["status"] != Status.PASS:
        return
    for name, floor in FLOOR.items():
        if (now := new.get(name, 0.0)) > floor and now >= GROWTH * (was := old.get(name, now)):
            yield f"{name} {was:.3g} -> {now:.3g}"
    before, after = (_resources(result.get("kernels", [])) for result in (old, new))
    for (kernel, what), now in after.items():
        if now > (was := before.get((kernel, what), now)):
            yield f"{kernel}: {what} {was} -> {now}"


def _resources(kernels: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """The most that any build of each kernel needs: a check may build one several times."""
    most: dict[tuple[str, str], int] = defaultdict(int)
    for kernel in kernels:
        for what in RESOURCES:
            most[kernel["name"], what] = max(most[kernel["name"], what], kernel.get(what) or 0)
    return most


def _status(result: dict[str, Any]) -> str:
    return result["status"] + (" (expected)" if "expected" in result else "")
