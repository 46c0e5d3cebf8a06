"""Context lengths as relations: how the longest sequence of a batch lies to a page, a tile, a threshold, its draft."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

TILE = 64
"""Kernels go through the keys in tiles of at most so many, and split them at tiles."""

THRESHOLD = 512
"""Up to so many keys unified attention takes its 2-D kernel; above, mostly a 3-D one that cuts them into segments."""


@dataclass(frozen=True)
class Context:
    """A relation of the keys `n` of the longest sequence to its queries `m` and the page size.

    `tried` are lengths among which some are so; `holds` decides, for these as for any other.
    """

    name: str
    holds: Callable[[int, int, int], bool]
    tried: Callable[[int, int], Iterable[int]]


def _near_multiple(
    name: str, unit: Callable[[int], int], off: int, tried: Callable[[int, int], Iterable[int]], first: int = 1
) -> Context:
    """`k * unit + off` keys, k from `first`; a unit of one key has nothing but whole multiples."""

    def holds(n: int, m: int, page: int) -> bool:
        size = unit(page)
        return n >= m and (n - off) % size == 0 and n - off >= first * size and (size > 1 or off == 0)

    return Context(name + {-1: "-1", 0: "", 1: "+1"}[off], holds, tried)


def _pages(m: int, page: int) -> Iterable[int]:
    return range(1, max(2 * page, m + page, TILE) + 2)


def _within(low: int, high: int, tried: Iterable[int]) -> Callable[[str], Context]:
    numbers = tuple(tried)
    return lambda name: Context(name, lambda n, m, _: max(low, m) <= n <= high, lambda *_: numbers)


CONTEXTS = (
    *(_near_multiple("page", lambda page: page, off, _pages) for off in (0, 1, -1)),
    *(_near_multiple("tile", lambda _: TILE, off, lambda *_: range(TILE - 1, 7 * TILE + 2)) for off in (0, 1, -1)),
    *(_within(n, n, [n])(f"{n}") for n in (THRESHOLD, THRESHOLD + 1, THRESHOLD - 1)),
    Context("short", lambda n, m, _: 0 < n < m, lambda m, _: range(1, m)),
    *(
        _near_multiple("segment", lambda _: THRESHOLD, off, lambda *_: range(2 * THRESHOLD - 1, 1538), first=2)
        for off in (0, 1, -1)
    ),
    _within(1_025, 4_096, range(1_029, 4_096, 61))("long"),
    _within(8_192, 32_768, (8_192, 8_193, 8_255, 9_000, 10_007, 12_289, 16_384, 20_011, 32_767, 32_768))("very long"),
    Context("empty", lambda n, *_: n == 0, lambda *_: [0]),
)
"""The cheapest first. `segment` is the edge of 8 segments of a tile, of 16 and so on."""

BY_NAME = {context.name: context for context in CONTEXTS}


def of(n: int, m: int, page: int) -> frozenset[str]:
    """All relations that hold of `n` keys under `m` queries."""
    return frozenset(context.name for context in CONTEXTS if context.holds(n, m, page))


@cache
def lengths(name: str, m: int, page: int) -> tuple[int, ...]:
    """Lengths, ascending, of which the relation holds."""
    context = BY_NAME[name]
    return tuple(sorted({n for n in context.tried(m, page) if context.holds(n, m, page)}))
