"""The committed tiers: made by the case space as it is now, complete, nested, and affordable.

The whole of `core` is made again, and must come out as it is committed. `full` takes longer to make: that its cases are
what the space makes of their levels, and that no legal triple is missing, is shown for the committed list. Whatever
changes an axis, a constraint or what is made of a level changes one of the two.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from itertools import groupby, product

import pytest

from conformance import realize, realize_step, step_space, tiers
from conformance.axes import AXES, space
from conformance.case import Case
from conformance.cost import seconds
from conformance.covering import uncovered
from conformance.manifest import TIERS, BadTier, cases

WRITE = "write the manifests again: python -m conformance.tiers --write"

MOST_CPU_MINUTES = 15
"""What `core` may take on the interpreter by the estimate: it is run often."""


def manifest_text(tier: str) -> str:
    return files("conformance").joinpath("manifests", f"{tier}.txt").read_text()


def assignments(case: Case) -> Iterator[dict[str, str]]:
    """The levels that a case may have been made from: more than one where relations of its context coincide."""
    (row,) = tiers.rows([case])
    for levels in product(*(sorted(row[axis.name]) for axis in AXES)):
        yield {axis.name: level for axis, level in zip(AXES, levels, strict=True)}


def is_made_from_levels(case: Case) -> bool:
    if (levels := realize_step.levels(case)) is not None:
        one = {name: level for name, some in levels.items() for level in some}  # no two levels of a step coincide
        return len(one) == len(levels) and not step_space.space().objections(one) and realize_step.case(one) == case
    return any(not space().objections(levels) and realize.case(levels) == case for levels in assignments(case))


# -- made by the space as it is ----------------------------------------------------------------------------------------


def test_making_core_again_changes_nothing() -> None:
    assert tiers.text("core", tiers.core()) == manifest_text("core"), WRITE


def test_every_case_of_full_is_what_the_space_makes_of_legal_levels() -> None:
    by_hand = {*cases("core"), *map(Case.parse, tiers.HUGE)}
    strangers = [case.id for case in cases("full") if case not in by_hand and not is_made_from_levels(case)]
    assert strangers == [], WRITE


def test_the_text_of_full_is_in_order() -> None:
    assert tiers.text("full", cases("full")) == manifest_text("full"), WRITE


def test_a_case_that_the_space_would_not_make_is_seen() -> None:
    """The check of `full` sees a length, a window or a head dimension that is another, and so of a step."""
    step = next(case for case in cases("full") if case.step == "extend" and is_made_from_levels(case))
    assert not is_made_from_levels(replace(step, head_dim=step.head_dim + 1))
    assert not is_made_from_levels(replace(step, seq_lens=tuple(n + 1 for n in step.seq_lens)))
    made = next(
        case
        for case in cases("full")
        if case.step == "decode"
        and case.batch == 3
        and case.page_order == "shuffled"
        and max(case.window) > 0
        and is_made_from_levels(case)
    )
    assert not is_made_from_levels(replace(made, head_dim=made.head_dim + 1))
    assert not is_made_from_levels(replace(made, window=tuple(side + (side > 0) for side in made.window)))
    assert not is_made_from_levels(replace(made, seq_lens=(*made.seq_lens[:-1], made.seq_lens[-1] + 1)))


# -- complete ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["core", "full"])
def test_every_boundary_relation_is_there(tier: str) -> None:
    assert tiers.missing_boundaries(cases(tier)) == [], WRITE


def test_boundaries_are_what_they_are_said_to_be() -> None:
    """13 relations, each with the pages that matter to it; no context is shorter than a single query."""
    per_query = 4 * 3 + 2 * 6 + 2 * 3
    assert len(tiers.boundaries()) == 2 * (4 * per_query + 3 * 4)


def test_every_legal_pair_is_in_core() -> None:
    assert uncovered(space(), tiers.rows(cases("core")), 2) == [], WRITE


def test_every_legal_triple_is_in_full() -> None:
    assert uncovered(space(), tiers.rows(cases("full")), 3) == [], WRITE


def test_every_legal_pair_of_steps_that_a_kernel_may_serve_is_in_one_that_it_serves() -> None:
    """A pair that stands in refused cases alone, of softcap say, would not be tried on AITER's Triton kernels."""
    rows = list(tiers.step_rows(cases("core")))
    assert uncovered(step_space.served(), filter(step_space.may_be_served, rows), 2) == [], WRITE
    assert uncovered(step_space.space(), rows, 2) == [], WRITE
    assert uncovered(step_space.space(), filter(step_space.may_be_served, rows), 2) != []


def test_a_pair_that_is_missing_is_told() -> None:
    without = [case for case in cases("core") if not (case.batch == 128 and case.head_dim == 512)]
    assert len(without) < len(cases("core"))
    assert uncovered(space(), tiers.rows(without), 2).count({"head dim": "512", "batch": "128"}) == 1


# -- as a list ---------------------------------------------------------------------------------------------------------


def test_tiers_nest() -> None:
    smaller: set[Case] = set()
    for tier in TIERS:
        assert smaller <= set(cases(tier))
        smaller = set(cases(tier))


@pytest.mark.parametrize("tier", TIERS)
def test_no_case_is_there_twice(tier: str) -> None:
    ids = [case.id for case in cases(tier)]
    assert len(ids) == len(set(ids))
    assert all(len(name) < 220 for name in ids)


@pytest.mark.parametrize("tier", ["core", "full"])
def test_cases_of_one_specialisation_stand_together(tier: str) -> None:
    kinds = [(c.causal, c.dtype, c.head_dim, c.page_size, c.gqa_ratio) for c in cases(tier)]
    runs = [kind for kind, _ in groupby(kinds)]
    assert len(runs) == len(set(runs))


def test_tiers_are_of_the_size_that_they_are_for() -> None:
    assert 600 <= len(cases("core")) <= 950
    assert 4_000 <= len(cases("full")) <= 7_000
    assert sum(map(seconds, cases("core"))) < 60 * MOST_CPU_MINUTES


def test_what_no_kernel_serves_is_asked_all_the_same() -> None:
    assert set(map(Case.parse, tiers.REFUSALS)) <= set(cases("core"))
    assert set(map(Case.parse, tiers.HUGE)) <= set(cases("full"))


def test_the_fuzz_tier_has_no_list() -> None:
    with pytest.raises(BadTier, match="its cases are drawn by python -m conformance fuzz"):
        cases("fuzz")


def test_the_tiers_say_what_they_cover(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiers.main([]) == 0
    smoke, core, full = capsys.readouterr().out.splitlines()
    assert smoke.startswith(f"smoke: {len(cases('smoke'))} cases")
    assert core.startswith(f"core: {len(cases('core'))} cases, about ")
    assert full.endswith("complete")
