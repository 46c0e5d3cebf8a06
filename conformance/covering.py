"""Covering arrays: few cases such that every legal combination of a few axes' levels is in one of them.

One case at a time, greedily: take a combination that is still open, and let each further axis take the level that
closes most open combinations. Whether a combination is legal at all is decided by search, never assumed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import combinations, product
from random import Random

import numpy as np

from conformance.space import UNKNOWN, Space

Row = Mapping[str, Set[str]]
"""What a case covers: for each axis the levels that it has, none if it has none of the axis's."""

ATTEMPTS = 6
"""How often a case is filled, its axes in another order each time; the best is taken."""


class Coverage:
    """Which combinations of `strength` axes' levels are open: neither covered nor known to be illegal.

    With `coarse`, of their groups of levels. All combinations lie in one flat array, those of the same axes together.
    """

    def __init__(self, space: Space, strength: int, *, coarse: bool = False) -> None:
        self.space, self.strength = space, strength
        self.groups = [axis.group_of_level(coarse=coarse) for axis in space.axes]
        self.sizes = [int(groups.max()) + 1 for groups in self.groups]
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
                for dimension, name in enumerate(shared):  # a group is legal if a level of it is
                    groups = self.groups[self.space.at[name]]
                    by_group = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
                    legal = np.stack([legal.take(some, dimension).any(dimension) for some in by_group], dimension)
                legal = legal.transpose([shared.index(name) for name in names if name in shared])
                part &= legal.reshape([self.sizes[a] if self.space.names[a] in shared else 1 for a in combo])

    def _of(self, number: int) -> np.ndarray:
        """The combinations of one choice of axes, a view with a dimension for each."""
        part = self.open[self.offsets[number] : self.offsets[number + 1]]
        return part.reshape([self.sizes[axis] for axis in self.combos[number]])

    def where(self, chosen: Sequence[int]) -> np.ndarray:
        """Where the combinations of an assignment lie; those with an axis that is UNKNOWN are left out."""
        groups, known = self._grouped(chosen)
        whole = ((self.strides > 0) & known).sum(1) == self.strength
        return (self.offsets[:-1] + self.strides @ groups)[whole]

    def gains(self, axis: int, chosen: Sequence[int]) -> np.ndarray:
        """How many open combinations each level of an axis would close beside the levels that are chosen."""
        groups, known = self._grouped(chosen)
        mine = self._with_axis[axis]
        strides = self.strides[mine]
        ready = ((strides > 0) & known).sum(1) == self.strength - 1
        base = (self.offsets[mine] + strides @ groups)[ready]
        at = base[:, None] + strides[ready, axis][:, None] * np.arange(self.sizes[axis])
        return self.open[at].sum(0)[self.groups[axis]]

    def _grouped(self, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        groups = [0 if i == UNKNOWN else some[i] for some, i in zip(self.groups, chosen, strict=True)]
        return np.array(groups), np.array(chosen) != UNKNOWN

    def cover(self, row: Row) -> None:
        """Close what a case covers."""
        some = [[axis.levels.index(level) for level in sorted(row[axis.name])] or [UNKNOWN] for axis in self.space.axes]
        for chosen in product(*some):
            self.open[self.where(chosen)] = False

    def an_open_one(self) -> list[list[int]] | None:
        """The members of an open combination, of the axes with most of them: for each axis its possible levels."""
        counts = np.add.reduceat(self.open, self.offsets[:-1], dtype=int)
        number = int(counts.argmax())
        if not counts[number]:
            return None
        at = np.argwhere(self._of(number))[0]
        return self._members(number, at)

    def _members(self, number: int, at: Iterable[int]) -> list[list[int]]:
        members = [[UNKNOWN]] * len(self.space.axes)
        for axis, group in zip(self.combos[number], at, strict=True):
            members[axis] = np.flatnonzero(self.groups[axis] == group).tolist()
        return members

    def open_ones(self) -> Iterator[list[list[int]]]:
        """The members of all open combinations."""
        for number in range(len(self.combos)):
            for at in np.argwhere(self._of(number)):
                yield self._members(number, at)

    def refuse(self, members: list[list[int]]) -> None:
        """Close a combination that search has shown to be illegal."""
        self.open[self.where([some[0] for some in members])] = False


def uncovered(space: Space, rows: Iterable[Row], strength: int, *, coarse: bool = False) -> list[dict[str, str]]:
    """The legal combinations of `strength` axes' levels (groups, if `coarse`) that no row covers."""
    coverage = Coverage(space, strength, coarse=coarse)
    for row in rows:
        coverage.cover(row)
    legal = [members for members in coverage.open_ones() if _any_legal(space, members)]
    return [space.levels([some[0] for some in members]) for members in legal]


def _any_legal(space: Space, members: list[list[int]]) -> bool:
    return any(space.complete(chosen) is not None for chosen in product(*members))


def cover(
    space: Space,
    strength: int,
    *,
    coarse: bool = False,
    covered: Iterable[Row] = (),
    required: Iterable[Mapping[str, str]] = (),
    cost: Callable[[Mapping[str, str]], float] = lambda _: 0.0,
) -> list[dict[str, str]]:
    """Assignments that, with the rows `covered` already, cover every legal combination of `strength` axes' levels.

    Each of `required`, a part of an assignment, is in one of them too, and comes first. Of cases that close equally
    many combinations the cheaper is taken. The same arguments give the same assignments. Raises ValueError if a
    required part is not legal.
    """
    coverage = Coverage(space, strength, coarse=coarse)
    for row in covered:
        coverage.cover(row)
    filling = _Filling(space, coverage, cost)
    for part in required:
        chosen = filling.case([[i] for i in space.assignment(part)])
        if chosen is None:
            raise ValueError(f"no legal case has {dict(part)}")
    while (members := coverage.an_open_one()) is not None:
        if filling.case(members) is None:
            coverage.refuse(members)
    return filling.made


class _Filling:
    """Makes one case after the other."""

    def __init__(self, space: Space, coverage: Coverage, cost: Callable[[Mapping[str, str]], float]) -> None:
        self.space, self.coverage, self.cost = space, coverage, cost
        self.made: list[dict[str, str]] = []
        self.uses = [np.zeros(len(axis.levels), int) for axis in space.axes]
        self.random = Random(0)  # the same numbers in every version of Python

    def case(self, members: list[list[int]]) -> list[int] | None:
        """A full case with one of the members of each axis, closed in the coverage; None if there is no legal one."""
        starts = [list(chosen) for chosen in product(*members)]
        self.random.shuffle(starts)
        found = [self._filled(starts[attempt % len(starts)]) for attempt in range(ATTEMPTS)]
        whole = [chosen for chosen in found if chosen is not None]
        if not whole:  # dead ends all: only search knows
            whole = [c for c in map(self.space.complete, starts) if c is not None][:1]
        if not whole:
            return None
        best = max(whole, key=self._value)
        self.coverage.open[self.coverage.where(best)] = False
        for uses, level in zip(self.uses, best, strict=True):
            uses[level] += 1
        self.made.append(self.space.levels(best))
        return best

    def _value(self, chosen: list[int]) -> tuple[int, float]:
        return int(self.coverage.open[self.coverage.where(chosen)].sum()), -self.cost(self.space.levels(chosen))

    def _filled(self, chosen: list[int]) -> list[int] | None:
        """The axes that are not known yet, in random order, each with its best level; None at a dead end."""
        for axis, level in enumerate(chosen):
            if level != UNKNOWN and not self.space.consistent(axis, [*chosen[:axis], -1, *chosen[axis + 1 :]])[level]:
                return None
        chosen, order = list(chosen), [axis for axis, level in enumerate(chosen) if level == UNKNOWN]
        self.random.shuffle(order)
        for axis in order:
            allowed = self.space.consistent(axis, chosen)
            if not allowed.any():
                return None
            chosen[axis] = self._best(axis, self.coverage.gains(axis, chosen), allowed)
        return chosen

    def _best(self, axis: int, gains: np.ndarray, allowed: np.ndarray) -> int:
        """The level that closes most, the first of equals; in its group, the one that was used least."""
        first = int(np.where(allowed, gains, -1).argmax())
        alike = np.flatnonzero(allowed & (self.coverage.groups[axis] == self.coverage.groups[axis][first]))
        return int(alike[self.uses[axis][alike].argmin()])
