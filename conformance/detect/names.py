"""Mutation operators on names: an operand, or a stride, that is taken for another of its kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from conformance.detect.operators import Edit, Place

PAIRS = {
    "key": "value", "value": "key", "left": "right", "right": "left", "start": "stop", "stop": "start", "lo": "hi",
    "hi": "lo", "row": "col", "col": "row", "max": "expsum", "expsum": "max", "K": "V", "V": "K", "M": "L", "L": "M",
}  # fmt: skip
"""Words that are taken for each other, alone or within a name."""

MOST_TWINS = 2
"""Of a name with many look-alikes the first are enough."""


def stride(node: ast.expr, place: Place) -> Iterator[Edit]:
    """A stride becomes the next one of the same tensor, and K's becomes V's."""
    if not (isinstance(node, ast.Name) and "stride" in node.id):
        return
    known = _bound_before(node, place)
    siblings = [name for name in known if "stride" in name and _tensor(name) == _tensor(node.id)]
    if node.id in siblings and len(siblings) > 1:
        other = siblings[(siblings.index(node.id) + 1) % len(siblings)]
        yield place.replace(node, other, "stride", other)
    for other in known:
        if "stride" in other and _difference(node.id, other) in ({"k", "v"}, {"key", "value"}):
            yield place.replace(node, other, "stride", other)


def operand(node: ast.expr, place: Place) -> Iterator[Edit]:
    """A name becomes one that differs from it in a single character, or in a word of `PAIRS`."""
    if not isinstance(node, ast.Name) or "stride" in node.id or node.id not in place.bound:
        return
    twins = [name for name in _bound_before(node, place) if "stride" not in name and _are_twins(node.id, name)]
    for other in twins[:MOST_TWINS]:
        yield place.replace(node, other, "operand", other)


def _bound_before(node: ast.Name, place: Place) -> list[str]:
    return [name for name, line in place.bound.items() if line < node.lineno]


def _are_twins(one: str, other: str) -> bool:
    difference = _difference(one, other)
    if any(PAIRS.get(word) in difference for word in difference):
        return True
    return len(one) > 2 and len(difference) == 2 and all(len(part) == 1 for part in difference)


def _difference(one: str, other: str) -> set[str]:
    """The words, or else the characters, in which two names differ, if that is at a single place; else nothing."""
    for split in (lambda name: name.split("_"), list):
        first, second = split(one), split(other)
        if len(first) == len(second):
            differ = [{x, y} for x, y in zip(first, second, strict=True) if x != y]
            if len(differ) == 1 and (split is list or any(word in PAIRS for word in differ[0])):
                return differ[0]
    return set()


def _tensor(name: str) -> str:
    """The part of a stride's name that says of which tensor it is: all but the dimension at its end."""
    head, _, dimension = name.removesuffix("_i64").rpartition("_")
    suffix = "_i64" if name.endswith("_i64") else ""
    return (f"{head}_{dimension[:1]}" if head == "stride" else head) + suffix


OF_NAMES = (stride, operand)
