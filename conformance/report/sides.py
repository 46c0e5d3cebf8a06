"""Sides of a heat map: what the checks of a page differ in, and in which order their levels stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from conformance import axes
from conformance.case import Case
from conformance.check import Check
from conformance.realize import levels
from conformance.report.versions import Tested

KEYS = (0, 16, 64, 256, 512, 1_024, 4_096)
"""Bounds of the levels of a longest context."""

CHECK, STEP, CONTEXT, PATH = "checked", "step", "keys", "kernel path"
NO_ANSWER = "no answer"
NAMES = {"ratio": "GQA ratio", "page": "page size", "table": "table width", "bound": "bound of keys"}
"""What a reader who does not know the case space calls an axis of it."""

ORDER = {NAMES.get(axis.name, axis.name): axis.levels for axis in axes.AXES}


@dataclass(frozen=True)
class Side:
    """One property of a check, with the level of each check, in the order of the checks, by its number."""

    name: str
    levels: tuple[str, ...]
    of: tuple[int, ...]


def sides(checks: Iterable[Check]) -> list[Side]:
    """Every property that checks have; those that these differ in have several levels."""
    described = [dict(_described(check)) for check in checks]
    return [_side(name, described) for name in dict.fromkeys(name for one in described for name in one)]


def path_side(version: Tested, checks: Sequence[str]) -> Side:
    """Which kernels a version's answers came from: the one property that is not the check's own."""
    paths = [version.column.results.get(check, {}).get("path", "") or NO_ANSWER for check in checks]
    return _side(PATH, [{PATH: path} for path in paths])


def _described(check: Check) -> Iterator[tuple[str, str]]:
    """Each property with its level; of an axis on which the case has several, all of them."""
    case = check.case
    own = levels(case)
    yield CHECK, check.relation.name if check.relation else "numbers"
    yield STEP, case.step
    for axis in axes.AXES:
        if axis is axes.CONTEXT:
            yield CONTEXT, _keys(case)
        else:
            yield NAMES.get(axis.name, axis.name), "+".join(sorted(own[axis.name])) or "other"


def _keys(case: Case) -> str:
    """Of the longest sequence: `0`, `1-16`, ..., `> 4096`."""
    n = max(case.seq_lens)
    for low, high in pairwise(KEYS):
        if n == low == 0:
            return "0"
        if low < n <= high:
            return f"{low + 1}-{high}"
    return f"> {KEYS[-1]}"


def _side(name: str, described: Sequence[Mapping[str, str]]) -> Side:
    found = sorted({one[name] for one in described}, key=lambda level: _place(name, level))
    number = {level: at for at, level in enumerate(found)}
    return Side(name, tuple(found), tuple(number[one[name]] for one in described))


def _place(name: str, level: str) -> tuple[int, float, str]:
    """Numbers by size, then words in the order in which the case space has them, then others."""
    digits = level.removesuffix("x").partition("-")[0]
    if digits.isdigit():
        return 0, float(digits), level
    known = ORDER.get(name, ())
    return (1, known.index(level), level) if level in known else (2, 0, level)
