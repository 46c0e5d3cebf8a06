"""What attention must satisfy whatever its implementation."""

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reference import Attention, RoundingSums
from tests.reference.comparing import SUMS, assert_close, assert_same, of
from tests.reference.problems import Problem
from tests.reference.strategies import modest, problems

NO_POSITIONS: dict[str, Any] = {"window": (-1, -1), "alibi": False}
"""Nothing but the causal bound depends on where a key stands."""

OUT_AND_LSE = ("out", "lse")


@modest
@given(problem=problems(sinks=False, descale=False), constant=st.integers(-8, 8))
def test_weights_sum_to_one(problem: Problem, constant: int) -> None:
    """A value that all keys share is the output."""
    head_dim = problem.q[0].shape[-1]
    row = constant + torch.arange(head_dim).double()
    got = replace(problem, v=tuple(row.expand_as(v) for v in problem.v)).attend().out
    assert_close("out", got / 16, (row / 16 * problem.sees_a_key()[:, None, None]).expand_as(got))


@modest
@given(
    problem=problems(
        softcap=0.0, alibi=False, descale=False, head_dim=12, query_lens=st.integers(1, 3), seq_lens=st.integers(0, 12)
    )
)
def test_one_hot_values_return_the_weights(problem: Problem) -> None:
    """A key in sight weighs exp(logit - lse), any other exactly 0, and a sink has what is missing to 1."""
    one_hot = tuple(torch.eye(12).double()[: len(v), None].expand_as(v) for v in problem.v)
    got = replace(problem, v=one_hot).attend()
    query_lens = [len(q) for q in problem.q]
    rows = zip(problem.q, problem.k, problem.seen(), got.out.split(query_lens), got.lse.split(query_lens), strict=True)
    for q, k, seen, out, lse in rows:
        logits = torch.einsum("mhd,nhd->mhn", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1)) * problem.scale
        unseen = ~seen[:, None, :].expand_as(logits)
        weights, beyond = out.split([len(k), 12 - len(k)], -1)
        assert_close("out", weights, torch.where(unseen, 0.0, (logits - lse[..., None]).exp()))
        assert (weights[unseen] == 0).all()
        assert (beyond == 0).all()
        if problem.sinks is not None:
            assert_close("out", weights.sum(-1) + (problem.sinks.double() - lse).exp(), torch.ones_like(lse))
        else:
            assert_close("out", weights.sum(-1), seen.any(-1)[:, None].expand_as(lse).double())


@modest
@given(problem=problems(causal=False, **NO_POSITIONS), seed=st.integers(0, 2**16))
def test_order_of_keys_does_not_matter(problem: Problem, seed: int) -> None:
    bits = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(k), generator=bits) for k in problem.k]
    k, v = (tuple(x[order] for x, order in zip(xs, orders, strict=True)) for xs in (problem.k, problem.v))
    assert_same(replace(problem, k=k, v=v).attend(sums=True), problem.attend(sums=True))


@modest
@given(problem=problems(), data=st.data())
def test_order_of_sequences_does_not_matter(problem: Problem, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(problem.q))))
    got, want = rearranged(problem, order).attend(sums=True), problem.attend(sums=True)
    tokens = torch.arange(len(want.out)).split([len(q) for q in problem.q])
    rows = torch.cat([tokens[b] for b in order])
    assert_same(got, picked(want, rows))


@modest
@given(problem=problems(sinks=False, **NO_POSITIONS), data=st.data())
def test_parts_merge_by_lse(problem: Problem, data: st.DataObject) -> None:
    """Keys in two caches: the first holds none past the causal bound, so that its queries see all of it."""
    cuts = []
    for q, k in zip(problem.q, problem.k, strict=True):
        most = max(0, len(k) - len(q)) if problem.causal else len(k)
        cuts.append(data.draw(st.integers(0, most), "cut"))
    k1, v1 = (tuple(x[:cut] for x, cut in zip(xs, cuts, strict=True)) for xs in (problem.k, problem.v))
    k2, v2 = (tuple(x[cut:] for x, cut in zip(xs, cuts, strict=True)) for xs in (problem.k, problem.v))
    first, second = replace(problem, causal=False, k=k1, v=v1).attend(), replace(problem, k=k2, v=v2).attend()
    assert_same(merged(first, second), problem.attend(), OUT_AND_LSE)


@modest
@given(problem=problems(sinks=False, descale=False), constant=st.integers(-8, 8))
def test_a_constant_added_to_values_is_added_to_outputs(problem: Problem, constant: int) -> None:
    got, want = replace(problem, v=tuple(v + constant for v in problem.v)).attend(), problem.attend()
    assert_close("out", got.out / 16, (want.out + constant * problem.sees_a_key()[:, None, None]) / 16)
    assert torch.equal(got.lse, want.lse)


@modest
@given(problem=problems(causal=True))
def test_a_draft_is_its_queries_one_by_one(problem: Problem) -> None:
    """Each over as many keys as it may see."""
    singles = [(b, i) for b, q in enumerate(problem.q) for i in range(len(q))]
    if not singles:
        return

    def known(xs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(xs[b][: max(0, len(xs[b]) - len(problem.q[b]) + i + 1)] for b, i in singles)

    one_by_one = replace(
        rearranged(problem, [b for b, _ in singles]),
        q=tuple(problem.q[b][i : i + 1] for b, i in singles),
        k=known(problem.k),
        v=known(problem.v),
    )
    assert_same(one_by_one.attend(sums=True), problem.attend(sums=True))


@modest
@given(problem=problems(query_lens=st.integers(0, 1)))
def test_one_query_is_causal_either_way(problem: Problem) -> None:
    """It stands on the last key, so no key is ahead of it."""
    causal, not_causal = (replace(problem, causal=causal).attend(sums=True) for causal in (True, False))
    assert_same(causal, not_causal)


@modest
@given(problem=problems())
def test_a_causal_bound_is_a_window_to_the_right(problem: Problem) -> None:
    left, _ = problem.window
    bounded = replace(problem, causal=False, window=(left, 0))
    assert_same(replace(problem, causal=True).attend(sums=True), bounded.attend(sums=True))


@modest
@given(problem=problems(), left=st.integers(45, 2**31 - 1), right=st.integers(45, 2**31 - 1))
def test_a_window_beyond_all_keys_is_none(problem: Problem, left: int, right: int) -> None:
    wide, none = (replace(problem, window=window).attend(sums=True) for window in ((left, right), (-1, -1)))
    assert_same(wide, none)


@modest
@given(problem=problems(softcap=0.0, sinks=False), size=st.sampled_from([1.0, 150.0]), seed=st.integers(0, 2**16))
def test_an_offset_of_a_row_cancels(problem: Problem, size: float, seed: int) -> None:
    """A column more: of q an offset for each row, of k what makes it reach the logit unscaled, of v nothing."""
    bits = torch.Generator().manual_seed(seed)
    offsets = [size * (2 * torch.rand(q.shape[:2], generator=bits, dtype=torch.float64) - 1) for q in problem.q]
    problem = replace(problem, k_descale=None)
    shifted = replace(
        problem,
        q=tuple(torch.cat((q, offset[..., None]), -1) for q, offset in zip(problem.q, offsets, strict=True)),
        k=tuple(torch.cat((k, torch.full_like(k[..., :1], 1 / problem.scale)), -1) for k in problem.k),
        v=tuple(torch.cat((v, torch.zeros_like(v[..., :1])), -1) for v in problem.v),
    )
    got, want = shifted.attend(), problem.attend()
    assert_close("out", got.out[..., :-1], want.out)
    assert (got.out[..., -1] == 0).all()
    assert_close("lse", got.lse, want.lse + torch.cat(offsets))


@modest
@given(problem=problems(descale=True))
def test_descales_are_factors_of_what_is_stored(problem: Problem) -> None:
    assert problem.k_descale is not None
    assert problem.v_descale is not None
    scales = zip(problem.k_descale.double(), problem.v_descale.double(), strict=True)
    k, v = zip(
        *(
            (k * by_k[:, None], v * by_v[:, None])
            for k, v, (by_k, by_v) in zip(problem.k, problem.v, scales, strict=True)
        ),
        strict=True,
    )
    plain = replace(problem, k=k, v=v, k_descale=None, v_descale=None)
    assert_same(problem.attend(sums=True), plain.attend(sums=True))


@modest
@given(problem=problems(sinks=True))
def test_a_sink_only_dilutes(problem: Problem) -> None:
    """The output without it, times the share of the denominator that it leaves."""
    assert problem.sinks is not None
    got, without = problem.attend(), replace(problem, sinks=None).attend()
    sinks = problem.sinks.double().expand_as(got.lse)
    share = (without.lse - got.lse).exp()
    assert_same(got, Attention(without.out * share[..., None], torch.logaddexp(without.lse, sinks)), OUT_AND_LSE)


def rearranged(problem: Problem, sequences: list[int]) -> Problem:
    """The problem of these sequences, in this order, again where they repeat."""
    return replace(
        problem,
        **{name: tuple(getattr(problem, name)[b] for b in sequences) for name in "qkv"},
        **{
            name: None if (scales := getattr(problem, name)) is None else scales[sequences]
            for name in ("k_descale", "v_descale")
        },
    )


def picked(result: Attention, rows: Tensor) -> Attention:
    """Some rows of a result with sums."""
    sums = RoundingSums(**{name: of(result, name)[rows] for name in SUMS})
    return Attention(result.out[rows], result.lse[rows], sums)


def merged(first: Attention, second: Attention) -> Attention:
    """Attention over the keys of both, as the parts of a split-KV kernel are merged."""
    lse = torch.logaddexp(first.lse, second.lse)
    shares = [(part.lse - lse).exp().nan_to_num(nan=0.0)[..., None] for part in (first, second)]
    return Attention(first.out * shares[0] + second.out * shares[1], lse)
