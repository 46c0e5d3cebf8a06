"""Plans: what a run was asked to check, of which it may be one part of several."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from conformance.check import Check
from conformance.record import digest
from conformance.shard import Shard


@dataclass(frozen=True)
class Plan:
    """A tier, or chosen checks; the shard of them that a run takes; and which have a result already, by digest."""

    title: str
    every: list[Check]
    shard: Shard | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def checks(self) -> list[Check]:
        """Those of this run."""
        return [check for check in self.every if self._takes(digest(check))]

    def _takes(self, key: str) -> bool:
        return (self.shard is None or self.shard.holds(key)) and key not in self.left_out

    @property
    def described(self) -> str:
        """`tier core`, or `tier core, shard 2/4`."""
        shard = f", shard {self.shard}" if self.shard else ""
        return f"{self.title}{shard}" + (f", the {len(self.checks)} checks that are left" if self.left_out else "")

    def recorded(self) -> dict[str, Any]:
        """What the header of a record says of it: enough to tell whether the parts of a plan are all there."""
        described = {"title": self.title, "checks": len(self.every), "digest": joint(map(digest, self.every))}
        return described | ({"shard": str(self.shard)} if self.shard else {})


def joint(digests: Iterable[str]) -> str:
    """One digest for a set of them."""
    return hashlib.sha256("\n".join(sorted(set(digests))).encode()).hexdigest()[:16]
