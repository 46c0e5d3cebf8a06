"""Mutants that no case can kill, each shown by inspection: a committed list that cannot go stale unseen."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from conformance.aiter_repository import UNKNOWN
from conformance.detect.mutants import Mutant

COMMITTED = Path(__file__).with_name("equivalent.toml")
FIELDS = {"aiter", "mutant", "digest", "reason"}


class BadEquivalent(Exception):
    """A list, or an entry of it, that cannot be used, in one sentence."""


@dataclass(frozen=True)
class Equivalent:
    """A mutant of one AITER version that computes the same, and why. `digest` is that of the change and its lines."""

    aiter: str
    mutant: str
    digest: str
    reason: str


def read(path: Path) -> list[Equivalent]:
    """The entries of a list. Raises BadEquivalent."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadEquivalent(f"cannot read {path}: {error}") from error
    entries = content.get("equivalent", [])
    if set(content) - {"equivalent"} or not isinstance(entries, list):
        raise BadEquivalent(f"{path} holds [[equivalent]] tables and nothing else")
    found = []
    for number, entry in enumerate(entries, 1):
        if set(entry) != FIELDS or not all(isinstance(value, str) and value.strip() for value in entry.values()):
            raise BadEquivalent(f"{path}, entry {number}: needs {', '.join(sorted(FIELDS))}, each a text")
        found.append(Equivalent(**entry))
    named = [(entry.aiter, entry.mutant) for entry in found]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise BadEquivalent(f"{path} names {twice[1]} of AITER {twice[0]} twice")
    return found


def matched(entries: list[Equivalent], version: str, mutants: list[Mutant], texts: dict[str, str]) -> dict[str, str]:
    """The reasons of the entries for AITER `version`, by mutant id. Raises BadEquivalent for one that is stale.

    A tree that does not know its version is served by whichever entries fit it.
    """
    by_id = {mutant.id: mutant for mutant in mutants}
    files = {_file(name) for name in by_id}
    reasons = {}
    for entry in entries:
        if version not in (entry.aiter, UNKNOWN) or _file(entry.mutant) not in files:
            continue
        mutant = by_id.get(entry.mutant)
        digest = mutant and mutant.digest(texts[mutant.module])
        if digest == entry.digest:
            reasons[entry.mutant] = entry.reason
        elif version != UNKNOWN:
            stale = f"it has digest {digest}, not {entry.digest}" if digest else f"AITER {version} has no such mutant"
            raise BadEquivalent(f"the list of equivalent mutants is stale: {entry.mutant}: {stale}")
    return reasons


def _file(mutant: str) -> str:
    return mutant.partition(":")[0]
