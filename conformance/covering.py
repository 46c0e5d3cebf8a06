"""Covering arrays: few cases such that every legal combination of a few axes' levels is in one of them.

One case at a time, greedily: take a combination that is still open, and let each further axis take the level that
closes most open combinations. Whether a combination is legal at all is decided by search, never assumed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import combinations, product
from math import inf
from random import Random

import numpy as np

from conformance.space import UNKNOWN, Space

Row = Mapping[str, Set[str]]
"""What a case covers: for each axis the levels that it has, none if it has none of the axis's."""

ATTEMPTS = 6
"""How often a case is filled, its axes in another order each time; the best is taken."""


class Coverage:
    """Which combinations of `strength` axes' levels are open: neither covered nor known to be illegal.

    All combinations lie in one flat array, those of the same axes together.
    """

    def __init__(self, space: Space, strength: int) -> None:
        self.space, self.strength = space, strength
        self.sizes = [len(axis.levels) for axis in space.axes]
        self.combos = list(combinations(range(len(space.axes)), strength))
        self.offsets = np.zeros(len(self.combos) + 1, int)
        self.strides = np.zeros((len(self.combos), len(space.axes)), int)
        for number, combo in enumerate(self.combos):
            stride = 1
            for axis in reversed(combo):
                self.strides[number, axis] = stride
                stride *= self.sizes[axis]
            self.offsets[number + 1] = self.offsets[number] + stride
        self.open = np.ones(self.offsets[-1], bool)
        self._with_axis = [np.flatnonzero(self.strides[:, axis]) for axis in range(len(space.axes))]
        self._refuse_what_one_constraint_refuses()

    def _refuse_what_one_constraint_refuses(self) -> None:
        """Most illegal combinations are so by a single constraint: no search is needed for those."""
        for number, combo in enumerate(self.combos):
            names = [self.space.names[axis] for axis in combo]
            part = self._of(number)
            for constraint in self.space.constraints:
                shared = [name for name in constraint.axes if name in names]
                legal = constraint.onto(tuple(constraint.axes.index(name) for name in shared))
                legal = legal.transpose([shared.index(name) for name in names if name in shared])
                part &= legal.reshape([self.sizes[a] if self.space.names[a] in shared else 1 for a in combo])

    def _of(self, number: int) -> np.ndarray:
        """The combinations of one choice of axes, a view with a dimension for each."""
        part = self.open[self.offsets[number] : self.offsets[number + 1]]
        return part.reshape([self.sizes[axis] for axis in self.combos[number]])

    def where(self, chosen: Sequence[int]) -> np.ndarray:
        """Where the combinations of an assignment lie; those with an axis that is UNKNOWN are left out."""
        levels, known = np.maximum(chosen, 0), np.array(chosen) != UNKNOWN
        whole = ((self.strides > 0) & known).sum(1) == self.strength
        return (self.offsets[:-1] + self.strides @ levels)[whole]

    def gains(self, axis: int, chosen: Sequence[int]) -> np.ndarray:
        """How many open combinations each level of an axis would close beside the levels that are chosen."""
        levels, known = np.maximum(chosen, 0), np.array(chosen) != UNKNOWN
        mine = self._with_axis[axis]
        strides = self.strides[mine]
        ready = ((strides > 0) & known).sum(1) == self.strength - 1
        base = (self.offsets[mine] + strides @ levels)[ready]
        at = base[:, None] + strides[ready, axis][:, None] * np.arange(self.sizes[axis])
        return self.open[at].sum(0)

    def closes(self, chosen: Sequence[int]) -> int:
        """How many open combinations an assignment would close."""
        return int(self.open[self.where(chosen)].sum())

    def close(self, chosen: Sequence[int]) -> None:
        """The combinations of an assignment are covered, or not legal."""
        self.open[self.where(chosen)] = False

    def cover(self, row: Row) -> None:
        """Close what a case covers."""
        some = [[axis.levels.index(level) for level in sorted(row[axis.name])] or [UNKNOWN] for axis in self.space.axes]
        for chosen in product(*some):
            self.close(chosen)

    def an_open_one(self) -> list[int] | None:
        """An open combination, of the axes with most of them."""
        counts = np.add.reduceat(self.open, self.offsets[:-1], dtype=int)
        number = int(counts.argmax())
        return self._combination(number, np.argwhere(self._of(number))[0]) if counts[number] else None

    def open_ones(self) -> list[list[int]]:
        """All open combinations, each a part of an assignment."""
        return [self._combination(n, at) for n in range(len(self.combos)) for at in np.argwhere(self._of(n))]

    def _combination(self, number: int, levels: Iterable[int]) -> list[int]:
        chosen = [UNKNOWN] * len(self.space.axes)
        for axis, level in zip(self.combos[number], levels, strict=True):
            chosen[axis] = int(level)
        return chosen


def uncovered(space: Space, rows: Iterable[Row], strength: int) -> list[dict[str, str]]:
    """The legal combinations of `strength` axes' levels that no row covers."""
    coverage = Coverage(space, strength)
    for row in rows:
        coverage.cover(row)
    return [space.levels(chosen) for chosen in coverage.open_ones() if space.complete(chosen) is not None]


def cover(
    space: Space,
    strength: int,
    *,
    covered: Iterable[Row] = (),
    required: Iterable[Mapping[str, str]] = (),
    cost: Callable[[Mapping[str, str]], float] = lambda _: 1.0,
    dear: float = inf,
) -> list[dict[str, str]]:
    """Assignments that, with the rows `covered` already, cover every legal combination of `strength` axes' levels.

    Each of `required`, a part of an assignment, is in one of them too, and comes first. Of the cases considered, that
    is taken which closes most combinations for its cost, a positive number; one that costs more than `dear` is
    changed as long as that makes it better. The same arguments give the same assignments. Raises ValueError if a
    required part is not legal.
    """
    coverage = Coverage(space, strength)
    for row in covered:
        coverage.cover(row)
    filling = _Filling(space, coverage, cost, dear)
    made = []
    for part in required:
        chosen = filling.case(space.assignment(part))
        if chosen is None:
            raise ValueError(f"no legal case has {dict(part)}")
        made.append(space.levels(chosen))
    while (combination := coverage.an_open_one()) is not None:
        chosen = filling.case(combination)
        if chosen is None:
            coverage.close(combination)
        else:
            made.append(space.levels(chosen))
    return made


class _Filling:
    """Makes one case after the other."""

    def __init__(
        self, space: Space, coverage: Coverage, cost: Callable[[Mapping[str, str]], float], dear: float
    ) -> None:
        self.space, self.coverage, self.cost, self.dear = space, coverage, cost, dear
        self.random = Random(0)  # the same numbers in every version of Python

    def case(self, part: list[int]) -> list[int] | None:
        """A full case with the levels of `part`, closed in the coverage; None if there is no legal one."""
        attempts = [chosen for _ in range(ATTEMPTS) if (chosen := self._filled(part)) is not None]
        if not attempts:  # dead ends all: only search knows
            found = self.space.complete(part)
            if found is None:
                return None
            attempts = [found]
        best = max(attempts, key=self._value)
        if self.cost(self.space.levels(best)) > self.dear:
            best = self._improved(best, [axis for axis, level in enumerate(part) if level == UNKNOWN])
        self.coverage.close(best)
        return best

    def _value(self, chosen: list[int]) -> tuple[float, float]:
        cost = self.cost(self.space.levels(chosen))
        return self.coverage.closes(chosen) / cost, -cost

    def _filled(self, part: list[int]) -> list[int] | None:
        """The axes that are not known yet, in random order, each with its best level; None at a dead end."""
        chosen, order = list(part), [axis for axis, level in enumerate(part) if level == UNKNOWN]
        if not self.space.may_be_legal(part):
            return None
        self.random.shuffle(order)
        for axis in order:
            allowed = self.space.consistent(axis, chosen)
            if not allowed.any():
                return None
            chosen[axis] = int(np.where(allowed, self.coverage.gains(axis, chosen), -1).argmax())
        return chosen

    def _improved(self, chosen: list[int], free: list[int]) -> list[int]:
        """Changed one axis at a time, as long as that makes it better."""
        value, improving = self._value(chosen), True
        while improving:
            improving = False
            for axis in free:
                others = [_with(chosen, axis, level) for level in range(len(self.space.axes[axis].levels))]
                allowed = self.space.consistent(axis, _with(chosen, axis, UNKNOWN))
                better = max((some for some, legal in zip(others, allowed, strict=True) if legal), key=self._value)
                if self._value(better) > value:
                    chosen, value, improving = better, self._value(better), True
        return chosen


def _with(chosen: list[int], axis: int, level: int) -> list[int]:
    return [*chosen[:axis], level, *chosen[axis + 1 :]]
