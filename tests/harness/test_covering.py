"""Covering arrays, against brute force over small spaces: what is legal, and what is covered."""

from collections.abc import Iterator, Mapping
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.covering import Coverage, Row, cover, uncovered
from conformance.space import UNKNOWN, Axis, Constraint, Space, budget, rule

PATIENT = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

SIZE = Axis("size", ("1", "2", "4", "8"))
COUNT = Axis("count", ("1", "2", "3"))
COLOUR = Axis("colour", ("red", "blue"))
SHAPE = Axis("shape", ("round", "flat", "long"))


def small() -> Space:
    return Space(
        (SIZE, COUNT, COLOUR, SHAPE),
        [
            rule("nothing red is long", (COLOUR, SHAPE), lambda colour, shape: (colour, shape) != ("red", "long")),
            budget("at most 8", 8, [((SIZE,), float), ((COUNT,), float)]),
            rule("what is flat is small", (SHAPE, SIZE), lambda _, size: int(size) < 4, where={"shape": ["flat"]}),
        ],
    )


def assignments(space: Space) -> list[dict[str, str]]:
    """All legal ones, by trying every combination."""
    every = product(*(axis.levels for axis in space.axes))
    whole = (dict(zip(space.names, levels, strict=True)) for levels in every)
    return [levels for levels in whole if not space.objections(levels)]


def parts(levels: Mapping[str, str], strength: int) -> Iterator[frozenset[tuple[str, str]]]:
    return map(frozenset, combinations(levels.items(), strength))


def as_row(levels: Mapping[str, str]) -> Row:
    return {name: {level} for name, level in levels.items()}


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Up to five axes of up to four levels, and constraints of up to three axes; some leave nothing legal."""
    axes = [Axis(f"axis {n}", tuple("abcd"[: draw(st.integers(1, 4))])) for n in range(draw(st.integers(3, 5)))]
    constraints = []
    for n in range(draw(st.integers(0, 4))):
        scope = draw(st.lists(st.sampled_from(axes), min_size=1, max_size=3, unique=True))
        shape = [len(axis.levels) for axis in scope]
        count = int(np.prod(shape))
        bits = draw(st.lists(st.sampled_from((True, True, False)), min_size=count, max_size=count))
        constraints.append(Constraint(f"no. {n}", tuple(axis.name for axis in scope), np.array(bits).reshape(shape)))
    return Space(axes, constraints)


# -- what is legal -----------------------------------------------------------------------------------------------------


@given(spaces(), st.data())
@PATIENT
def test_search_finds_a_completion_exactly_where_there_is_one(space: Space, data: st.DataObject) -> None:
    part = [data.draw(st.integers(UNKNOWN, len(axis.levels) - 1)) for axis in space.axes]
    known = space.levels(part).items()
    found = space.complete(part)
    assert (found is not None) == any(known <= levels.items() for levels in assignments(space))
    if found is not None:
        assert known <= space.levels(found).items()
        assert not space.objections(space.levels(found))


def test_constraints_that_contradict_each_other_only_together_are_seen_by_search() -> None:
    """Each alone can live with a and b; no value of the third axis satisfies both."""
    a, b, third = Axis("a", ("0", "1")), Axis("b", ("0", "1")), Axis("third", ("x", "y"))
    space = Space(
        (a, b, third),
        [
            rule("x goes with 0", (a, third), lambda a, third: (a == "0") == (third == "x")),
            rule("y goes with 0", (b, third), lambda b, third: (b == "0") == (third == "y")),
        ],
    )
    both = space.assignment({"a": "0", "b": "0"})
    assert space.may_be_legal(both)
    assert space.complete(both) is None
    assert {(row["a"], row["b"]) for row in cover(space, 2)} == {("0", "1"), ("1", "0")}
    assert not uncovered(space, map(as_row, cover(space, 2)), 2)


def test_an_objection_is_the_constraint_s_sentence() -> None:
    red_and_long = {"size": "8", "count": "3", "colour": "red", "shape": "long"}
    assert small().objections(red_and_long) == ["nothing red is long", "at most 8"]
    assert small().objections(red_and_long | {"colour": "blue", "count": "1"}) == []


def test_a_budget_is_the_product_of_its_sizes() -> None:
    axes = (SIZE, COUNT, COLOUR)
    limit = budget("", 12, [((SIZE, COLOUR), lambda size, colour: int(size) * (2 if colour == "red" else 1)),
                            ((COUNT,), int)])  # fmt: skip
    assert limit.axes == ("size", "colour", "count")
    for size, colour, count in product(*(range(len(axis.levels)) for axis in (SIZE, COLOUR, COUNT))):
        want = int(SIZE.levels[size]) * (2 - colour) * int(COUNT.levels[count]) <= 12
        assert limit.legal[size, colour, count] == want
    assert len(axes) == limit.legal.ndim


# -- what is covered ---------------------------------------------------------------------------------------------------


@given(spaces(), st.sampled_from((2, 3)))
@PATIENT
def test_every_legal_combination_is_covered_and_nothing_else_is_made(space: Space, strength: int) -> None:
    made = cover(space, strength)
    legal = assignments(space)
    assert all(levels in legal for levels in made)
    wanted = {part for levels in legal for part in parts(levels, strength)}
    assert {part for levels in made for part in parts(levels, strength)} == wanted
    assert len(made) <= len(wanted)


@given(spaces(), st.sampled_from((2, 3)), st.data())
@PATIENT
def test_what_is_not_covered_is_told(space: Space, strength: int, data: st.DataObject) -> None:
    legal = assignments(space)
    some = data.draw(st.lists(st.sampled_from(legal), unique_by=str, max_size=4)) if legal else []
    open_ones = {part for levels in legal for part in parts(levels, strength)}
    open_ones -= {part for levels in some for part in parts(levels, strength)}
    told = uncovered(space, map(as_row, some), strength)
    assert {frozenset(part.items()) for part in told} == open_ones
    assert len(told) == len(open_ones)


def test_a_row_may_have_several_levels_of_an_axis_or_none() -> None:
    space = Space((SIZE, COUNT, COLOUR))
    row = {"size": {"2", "4"}, "count": {"3"}, "colour": set()}
    lacking = {frozenset(part.items()) for part in uncovered(space, [row], 2)}
    assert frozenset({("size", "2"), ("count", "3")}) not in lacking
    assert frozenset({("size", "4"), ("count", "3")}) not in lacking
    assert len(lacking) == 4 * 3 + 4 * 2 + 3 * 2 - 2


def test_gains_are_what_closing_closes() -> None:
    coverage = Coverage(small(), 3)
    chosen = [1, UNKNOWN, 1, UNKNOWN]
    gains = coverage.gains(1, chosen)
    for level in range(3):
        assert gains[level] == coverage.closes([1, level, 1, UNKNOWN])
    coverage.close([1, 2, 1, UNKNOWN])
    assert coverage.gains(1, chosen).tolist() == [gains[0], gains[1], 0]


def test_pairs_take_no_more_cases_than_they_must() -> None:
    """Eight axes of three levels: 9 is the least for four of them, and 15 is known to do for eight by such a method."""
    axes = [Axis(str(n), ("a", "b", "c")) for n in range(8)]
    assert 9 <= len(cover(Space(axes), 2)) <= 17


def test_what_is_covered_already_is_not_made_again() -> None:
    space = small()
    legal = assignments(space)
    assert cover(space, 2, covered=map(as_row, legal)) == []
    assert len(cover(space, 2, covered=map(as_row, legal[:6]))) < len(cover(space, 2))


def test_required_parts_come_first_and_are_all_there() -> None:
    required = [{"size": "8", "shape": "long"}, {"size": "1", "count": "1", "colour": "red"}, {"size": "8"}]
    made = cover(small(), 2, required=required)
    assert all(part.items() <= levels.items() for part, levels in zip(required, made, strict=False))
    with pytest.raises(ValueError, match=r"no legal case has .*'red'"):
        cover(small(), 2, required=[{"colour": "red", "shape": "long"}])


def test_cheap_cases_are_preferred_and_dear_ones_changed() -> None:
    def cost(levels: Mapping[str, str]) -> float:
        return 1.0 + int(levels["size"]) * int(levels["count"])

    space = Space((SIZE, COUNT, COLOUR, SHAPE))

    def total(**options: object) -> float:
        return sum(map(cost, cover(space, 2, **options)))  # pyright: ignore[reportArgumentType]

    assert total(cost=cost) <= total()
    assert total(cost=cost, dear=5.0) <= total(cost=cost)
    assert not uncovered(space, map(as_row, cover(space, 2, cost=cost, dear=0.5)), 2)


def test_the_same_arguments_give_the_same_cases() -> None:
    assert cover(small(), 3) == cover(small(), 3)


def test_strength_three_covers_triples() -> None:
    space = small()
    pairs, triples = cover(space, 2), cover(space, 3)
    assert len(pairs) < len(triples)
    assert not uncovered(space, map(as_row, triples), 3)
    assert uncovered(space, map(as_row, pairs), 3)
