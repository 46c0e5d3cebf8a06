"""Shards: disjoint parts of the same work, for several hosts."""

import re
from dataclasses import dataclass


class BadShard(ValueError):
    """What names no shard, in one sentence."""


@dataclass(frozen=True)
class Shard:
    """The `number`-th, from 1, of `of` parts; `str(Shard.parse("2/4")) == "2/4"`."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Raises BadShard."""
        found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise BadShard(f"--shard {text} is no share: write 1/4 to 4/4")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, digest: str) -> bool:
        """Is what has this hexadecimal digest in this shard? In no other of as many, then, on any machine."""
        return int(digest, 16) % self.of == self.number - 1
