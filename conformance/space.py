"""A space of choices: axes with named levels, and constraints that say which combinations are not legal, and why."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

UNKNOWN = -1
"""Stands for the level of an axis that has none yet."""


@dataclass(frozen=True)
class Axis:
    """A property and its levels, the cheapest and plainest first."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Constraint:
    """Which combinations of levels of `axes` are legal (bool, one dimension an axis), and a sentence that says why."""

    why: str
    axes: tuple[str, ...]
    legal: np.ndarray
    _projections: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict, repr=False)

    def onto(self, dimensions: tuple[int, ...]) -> np.ndarray:
        """What is legal of some of its axes, whatever the others are."""
        if len(dimensions) == len(self.axes):
            return self.legal
        if dimensions not in self._projections:  # from one that is a dimension larger, and is kept too
            dropped = next(d for d in range(len(self.axes)) if d not in dimensions)
            larger = tuple(sorted((*dimensions, dropped)))
            self._projections[dimensions] = np.asarray(self.onto(larger).any(axis=larger.index(dropped)))
        return self._projections[dimensions]


class Space:
    """Axes and constraints. An assignment is a list with the index of a level for each axis, or UNKNOWN."""

    def __init__(self, axes: Sequence[Axis], constraints: Iterable[Constraint] = ()) -> None:
        self.axes = tuple(axes)
        self.names = tuple(axis.name for axis in axes)
        self.constraints = tuple(constraints)
        self.at = {name: number for number, name in enumerate(self.names)}
        self._scopes = [tuple(self.at[name] for name in c.axes) for c in self.constraints]
        self._touching = [
            [(c, scope) for c, scope in zip(self.constraints, self._scopes, strict=True) if axis in scope]
            for axis in range(len(self.axes))
        ]

    def assignment(self, levels: Mapping[str, str]) -> list[int]:
        """Names to indices; axes that are not named are UNKNOWN."""
        chosen = [UNKNOWN] * len(self.axes)
        for name, level in levels.items():
            chosen[self.at[name]] = self.axes[self.at[name]].levels.index(level)
        return chosen

    def levels(self, assignment: Sequence[int]) -> dict[str, str]:
        """Indices to names."""
        return {axis.name: axis.levels[i] for axis, i in zip(self.axes, assignment, strict=True) if i != UNKNOWN}

    def objections(self, levels: Mapping[str, str]) -> list[str]:
        """Why a full assignment is not legal: the sentence of each constraint that it breaks."""
        chosen = self.assignment(levels)
        return [
            constraint.why
            for constraint, scope in zip(self.constraints, self._scopes, strict=True)
            if not constraint.legal[tuple(chosen[axis] for axis in scope)]
        ]

    def consistent(self, axis: int, chosen: Sequence[int]) -> np.ndarray:
        """Which levels of an axis each constraint, taken alone, can still live with; bool, one a level."""
        allowed = np.ones(len(self.axes[axis].levels), bool)
        for constraint, scope in self._touching[axis]:
            known = tuple(d for d, a in enumerate(scope) if a == axis or chosen[a] != UNKNOWN)
            at = tuple(slice(None) if scope[d] == axis else chosen[scope[d]] for d in known)
            allowed &= constraint.onto(known)[at]
        return allowed

    def complete(self, chosen: Sequence[int]) -> list[int] | None:
        """A legal assignment that agrees with `chosen`, or None: then there is none, since the search is exhaustive."""
        return self._search(list(chosen)) if self.may_be_legal(chosen) else None

    def may_be_legal(self, chosen: Sequence[int]) -> bool:
        """Can each constraint, taken alone, live with these levels?"""
        return all(
            constraint.onto(known := tuple(d for d, a in enumerate(scope) if chosen[a] != UNKNOWN))[
                tuple(chosen[scope[d]] for d in known)
            ]
            for constraint, scope in zip(self.constraints, self._scopes, strict=True)
        )

    def _search(self, chosen: list[int]) -> list[int] | None:
        """Depth first, on the axis with the fewest levels left."""
        left = {a: np.flatnonzero(self.consistent(a, chosen)) for a, i in enumerate(chosen) if i == UNKNOWN}
        if not left:
            return chosen
        axis = min(left, key=lambda a: len(left[a]))
        for level in left[axis]:
            found = self._search([*chosen[:axis], int(level), *chosen[axis + 1 :]])
            if found is not None:
                return found
        return None


def rule(
    why: str,
    axes: Sequence[Axis],
    allows: Callable[..., bool],
    *,
    where: Mapping[str, Iterable[str]] | None = None,
) -> Constraint:
    """A constraint from a predicate of level names, asked only where the axes of `where` have one of those levels."""
    some = {name: set(levels) for name, levels in (where or {}).items()}
    legal = np.ones([len(axis.levels) for axis in axes], bool)
    asked = [
        [i for i, level in enumerate(axis.levels) if axis.name not in some or level in some[axis.name]] for axis in axes
    ]
    for at in product(*asked):
        legal[at] = allows(*(axis.levels[i] for axis, i in zip(axes, at, strict=True)))
    return Constraint(why, tuple(axis.name for axis in axes), legal)


def budget(why: str, most: float, sizes: Sequence[tuple[Sequence[Axis], Callable[..., float]]]) -> Constraint:
    """The product of sizes, each a function of the levels of one or more axes, is at most `most`."""
    axes = [axis for some, _ in sizes for axis in some]
    total = np.ones(())
    for some, size in sizes:
        values = [size(*levels) for levels in product(*(axis.levels for axis in some))]
        part = np.array(values, float).reshape([len(axis.levels) for axis in some])
        total = np.multiply.outer(total, part)
    return Constraint(why, tuple(axis.name for axis in axes), total <= most)
