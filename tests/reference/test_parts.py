"""A call over some of the keys, and what the parts that keys are cut into add up to."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reference import Attention, attend, part_sums
from tests.reference.comparing import assert_close, assert_same
from tests.reference.problems import Problem, random_problem
from tests.reference.strategies import modest, problems

LENS = (17, 9, 33, 4, 20)
QUERIES = (3, 0, 1, 4, 2)
STARTS = ((0, 7, 14, 17), (0, 9), (0, 32, 33), (0, 0, 4), (0, 5, 10, 15, 18, 20))
"""Cut in three, not at all, before the last key, at the first key, in five."""


def over(problem: Problem, first: Tensor, last: Tensor) -> Attention:
    return attend(**problem.paged(), key_range=(first, last))


@modest
@given(problem=problems(), data=st.data())
def test_all_keys_are_a_range(problem: Problem, data: st.DataObject) -> None:
    lens = torch.tensor([len(k) for k in problem.k])
    beyond = data.draw(st.integers(0, 3))
    assert_same(over(problem, torch.zeros_like(lens), lens + beyond), problem.attend(), ("out", "lse"))


@pytest.mark.parametrize("window", [(-1, -1), (6, -1), (3, 2)], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_a_range_to_the_left_is_a_shorter_sequence_seen_from_afar(causal: bool, window: tuple[int, int]) -> None:
    """One query at a time, so that it can be moved: what it sees of the keys from `first` to `last` is what counts."""
    m, n, first, last = 4, 20, 5, 18
    problem = random_problem((m,), (n,), causal=causal, window=window)
    got = over(problem, torch.tensor([first]), torch.tensor([last]))
    for i in range(m):
        stand = n - m + i
        reach = [stand + window[1] + 1] if window[1] >= 0 else []
        end = min(last, *reach, *([stand + 1] if causal else []), n)
        begin = max(first, stand - window[0] if window[0] >= 0 else 0)
        k, v = (x[0][begin:end] for x in (problem.k, problem.v))
        kept = replace(problem, q=(problem.q[0][i : i + 1],), k=(k,), v=(v,), causal=False, window=(-1, -1))
        want = kept.attend()
        assert_close("out", got.out[i : i + 1], want.out)
        assert_close("lse", got.lse[i : i + 1], want.lse)


@modest
@given(problem=problems(), data=st.data())
def test_parts_add_up_to_the_whole(problem: Problem, data: st.DataObject) -> None:
    lens = torch.tensor([len(k) for k in problem.k])
    middle = torch.tensor([data.draw(st.integers(0, n)) for n in lens.tolist()])
    left, right = (
        over(replace(problem, sinks=None), torch.zeros_like(lens), middle),
        over(replace(problem, sinks=None), middle, lens),
    )
    whole = problem.attend()
    shares = [(part.lse - whole.lse).exp().nan_to_num(nan=0.0)[..., None] * part.out for part in (left, right)]
    assert_close("out", shares[0] + shares[1], whole.out)


@pytest.mark.parametrize("sinks", [False, True], ids=["no sink", "sink"])
def test_sums_of_parts(sinks: bool) -> None:
    """From parts that are problems of their own: without causality a part is its keys, whoever asks."""
    problem = random_problem(QUERIES, LENS, causal=False, sinks=sinks)
    whole, bare = problem.attend(), replace(problem, sinks=None)
    got = part_sums(whole, STARTS, lambda first, last: over(bare, first, last), torch.tensor(QUERIES))
    row = 0
    for b, (m, starts) in enumerate(zip(QUERIES, STARTS, strict=True)):
        shares = []
        for first, last in pairwise(starts):
            part = replace(bare, q=(bare.q[b],), k=(bare.k[b][first:last],), v=(bare.v[b][first:last],)).attend()
            shares.append((part.lse - whole.lse[row : row + m]).exp()[..., None] * part.out)
        cut = len(shares) > 1
        running = [sum(shares[: j + 1], torch.zeros(())) for j in range(1, len(shares) - 1)]
        nothing = torch.zeros_like(whole.out[row : row + m])
        rows = slice(row, row + m)
        assert_close("weighted", got.weighted[rows], sum((s.abs() for s in shares), nothing) if cut else nothing)
        assert_close("squared", got.squared[rows], sum((s.square() for s in shares), nothing) if cut else nothing)
        assert_close("running", got.running[rows], sum((r.abs() for r in running), nothing))
        assert_close("running_squared", got.running_squared[rows], sum((r.square() for r in running), nothing))
        row += m
    assert got.running.any()
