"""Comparing two sets of records, as `qualify` writes them: each version and target with itself, then and now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.compare import Comparison, compare
from conformance.matrix.columns import System
from conformance.merge import merged
from conformance.record import BadRecord, Record, in_folder, read

Naming = Callable[[Record], Hashable]


@dataclass(frozen=True)
class SetComparison:
    """A comparison for each pair, and the records that have no counterpart."""

    pairs: list[Comparison]
    only_old: list[Record]
    only_new: list[Record]

    @property
    def regressed(self) -> bool:
        return any(pair.regressed for pair in self.pairs)

    @property
    def changed(self) -> bool:
        """Is anything not equal?"""
        return bool(self.only_old or self.only_new or any(pair.changes for pair in self.pairs))

    @property
    def complete(self) -> bool:
        return all(pair.complete for pair in self.pairs)

    @property
    def common(self) -> int:
        return sum(pair.common for pair in self.pairs)


def of(words: str) -> list[Record]:
    """The records that a folder holds, or that are named with commas between them; parts of one run are one.

    Raises BadRecord.
    """
    path = Path(words)
    if path.is_dir():
        paths = in_folder(path)
        if not paths:
            raise BadRecord(f"{path} holds no record")
    else:
        paths = [path] if path.exists() else [Path(name) for name in words.split(",")]
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for one in paths:
        parts[_same(read(one))].append(one)
    return [read(some[0]) if len(some) == 1 else merged(some) for some in parts.values()]


def compare_sets(old: Sequence[Record], new: Sequence[Record]) -> SetComparison:
    """Each record with that of the same system; where two sets have none in common, of the same backend and target.

    One record is compared with one, whatever they are of.

    Raises BadRecord where nothing has a counterpart, or the checks of a pair are of another version of the suite.
    """
    if len(old) == len(new) == 1:
        return SetComparison([compare(old[0], new[0])], [], [])
    olds, news = list(old), list(new)
    pairs: list[tuple[Record, Record]] = []
    for naming in (_same, _version, _target):
        if naming is _target and pairs:
            break
        for one in list(olds):
            here, there = ([record for record in some if naming(record) == naming(one)] for some in (olds, news))
            if len(here) == len(there) == 1:
                pairs.append((one, there[0]))
                olds.remove(one)
                news.remove(there[0])
    if not pairs:
        raise BadRecord("nothing can be compared: no record of the one set has its counterpart in the other")
    return SetComparison([compare(*pair) for pair in pairs], olds, news)


def _same(record: Record) -> Hashable:
    environment = record.header["environment"]
    return System.of(record), environment.get("torch"), environment.get("triton")


def _version(record: Record) -> Hashable:
    """Under whatever torch and Triton."""
    system = System.of(record)
    return system.backend, system.version, system.target


def _target(record: Record) -> Hashable:
    """Of whatever version."""
    system = System.of(record)
    return system.backend, system.target
