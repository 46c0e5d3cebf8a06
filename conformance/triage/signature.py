"""What makes two failures the same: robust against the size of a case, and against how a commit words its code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from conformance.status import Status

SPOKEN = (Status.ERROR, Status.CRASH, Status.TIMEOUT, Status.RESOURCE, Status.MALFORMED, Status.UNSUPPORTED)
"""Failures, and refusals, that are told apart by what they say."""

_PLACE = re.compile(r",? ?\(?\bin \w+ \([^()]*:\d+\)\)?| \([^()]*:\d+[^()]*\)")
_NUMBERS = re.compile(r"\[[\d, ]*\]|\d[\d.,]*")


@dataclass(frozen=True)
class Signature:
    """Of one failing check: its status, the kernels it went through, what is wrong, and of which rows."""

    status: str
    paths: frozenset[str]
    """Of a mixed batch several: which of them failed is not told, so that a part of them may be the same failure."""
    kind: str
    """"output" or "lse"; "NaN" or "infinity"; where words tell failures apart, those, without numbers and places."""
    rows: str = ""
    """"with keys", "without a key" or "of an empty sequence"; "" where no row is named."""

    @classmethod
    def of(cls, result: dict[str, Any]) -> Signature:
        """Of the result of a check, as a record has it."""
        paths = frozenset(filter(None, re.split(r"\+| and ", result.get("path", ""))))
        return cls(result["status"], paths, _kind(result["status"], result.get("reason", "")), result.get("rows", ""))

    def is_same(self, start: Signature) -> bool:
        """Is this the failure that `start` is, or a part of it?"""
        alike = (self.status, self.kind, self.rows) == (start.status, start.kind, start.rows)
        return alike and self.paths <= start.paths and bool(self.paths) == bool(start.paths)

    def __str__(self) -> str:
        parts = [self.status, self.kind, f"in rows {self.rows}" if self.rows else ""]
        return ", ".join(filter(None, [*parts, f"on {'+'.join(sorted(self.paths))}" if self.paths else ""]))


def _kind(status: str, reason: str) -> str:
    if status in SPOKEN:
        return _NUMBERS.sub("#", _PLACE.sub("", reason)).strip()
    if status == Status.NONFINITE:
        return "NaN" if re.search(r"[1-9]\d* of them NaN", reason) else "infinity"
    if status in (Status.MISMATCH, Status.NONDETERMINISTIC):
        return "lse" if reason.startswith("an lse") or " of lse " in reason else "output"
    return ""
