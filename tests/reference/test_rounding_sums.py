"""Each field of `RoundingSums` by its docstring, in Python floats; also small cases worked out by hand."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given

from reference import Attention, attend
from tests.reference.comparing import SUMS, TOLERANCE, assert_identical, assert_same, of
from tests.reference.problems import Problem, random_problem
from tests.reference.strategies import modest, problems

OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"causal": True},
    "noncausal": {"causal": False},
    "window": {"causal": False, "window": (6, 3)},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "descale": {"descale": True},
    "large logits": {"scale": 10.0},
}


@cache
def results(option: str, tile_bytes: int | None) -> tuple[Attention, Attention]:
    problem = random_problem((3, 2, 0, 4), (29, 2, 11, 3), q_heads=6, **OPTIONS[option])
    return problem.attend(sums=True, tile_bytes=tile_bytes), problem.naive()


@pytest.mark.parametrize("tile_bytes", [1, None], ids=["page by page", "at once"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", SUMS)
def test_a_sum(name: str, option: str, tile_bytes: int | None) -> None:
    got, want = results(option, tile_bytes)
    assert of(got, name).abs().max() > 0
    assert_same(got, want, (name,))


def one_query(scores: list[float], values: list[float], **rest: Any) -> Problem:
    """One head of dimension 1 whose query is 1, so that keys are scores."""
    column = torch.tensor([scores, values], dtype=torch.float64)[:, :, None, None]
    return Problem(q=(torch.ones(1, 1, 1).double(),), k=(column[0],), v=(column[1],), scale=1.0, **rest)


def test_two_keys_by_hand() -> None:
    """Scores log 3 and log 1, so weights 3/4 and 1/4; values 2 and -4, so output 1/2."""
    a = torch.tensor(3.0).double().log().item()
    got = one_query([a, 0.0], [2.0, -4.0]).attend(sums=True)
    want = {
        "out": 0.5,
        "weighted_v": 2.5,
        "weighted_score_v": 1.5 * a,
        "weighted_score": 0.75 * a,
        "squared_v": 0.75**2 * 4 + 0.25**2 * 16,
        "squared_score_deviation": 0.75**2 * a**2 * 1.5**2,
        "visible_v": 6 / (4 / 3),
        "visible_v_squared": 20 / (4 / 3) ** 2,
    }
    for name, value in want.items():
        assert of(got, name).item() == pytest.approx(value, rel=TOLERANCE), name


def test_a_sink_above_all_scores_is_the_row_maximum() -> None:
    """A key of score 0 beside a sink of log 3 has weight 1/4; the denominator relative to the sink is 4/3."""
    sink = torch.tensor([3.0]).double().log()
    got = one_query([0.0], [5.0], sinks=sink).attend(sums=True)
    for name, value in {"out": 5 / 4, "visible_v": 5 / (4 / 3), "visible_v_squared": 25 / (4 / 3) ** 2}.items():
        assert of(got, name).item() == pytest.approx(value, rel=TOLERANCE), name


def test_deviation_is_never_negative() -> None:
    """It is a variance, computed as a difference: where every value is the output it cancels to rounding noise."""
    problem = random_problem((4,), (40,), scale=3.0)
    constant = Problem(problem.q, problem.k, (torch.full_like(problem.v[0], 0.1),), problem.scale)
    assert (of(constant.attend(sums=True), "squared_score_deviation") >= 0).all()


@modest
@given(problem=problems())
def test_sums_cost_nothing_but_time(problem: Problem) -> None:
    """Asking for them changes no bit of the result, and not asking yields none."""
    arguments = problem.paged()
    plain, full = attend(**arguments), attend(**arguments, sums=True)
    assert plain.sums is None
    assert full.sums is not None
    assert_identical(Attention(full.out, full.lse), plain)
