"""The dispatch, on kernels written here: every path equals the oracle, and a mask reaches only a kernel that has it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conformance.backends import Answer, aiter
from conformance.case import Case
from conformance.dispatch import AttentionLayer, forward, supports_non_causal
from conformance.execute import exact
from conformance.inputs import make
from conformance.judge import judge
from conformance.status import Status, Unsupported
from tests.harness.dispatch_kernels import Kernels
from tests.harness.dispatched import (
    DRAFTS,
    EDGES,
    RAGGED,
    UNIFORM,
    WINDOWS,
    assert_exact,
    built,
    case_of,
    layer_of,
    no_kernel,
    served,
)

# -- every path equals the oracle ------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("lengths", (UNIFORM | RAGGED | EDGES).values(), ids=UNIFORM | RAGGED | EDGES)
@pytest.mark.parametrize("mode", ["causal", "noncausal"])
def test_a_decode_equals_the_oracle(mode: str, lengths: str, window: tuple[int, int]) -> None:
    case, kernels = case_of(mode, lengths, window), Kernels()
    done = served(case, kernels)
    uniform = len(set(case.query_lens)) == 1
    assert done.path == ("unified" if case.causal else "kvcache" if uniform else "kvcache.padded")
    assert [name for name, _ in kernels.called] == [done.path.split(".")[0]]
    assert (done.lse is None) == case.causal
    assert_exact(case, done)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("lengths", DRAFTS.values(), ids=DRAFTS)
@pytest.mark.parametrize("mode", ["causal", "noncausal"])
def test_a_draft_equals_the_oracle(mode: str, lengths: str, window: tuple[int, int]) -> None:
    case = case_of(mode, lengths, window)
    done = served(case, Kernels(), for_drafting=True)
    assert done.path == ("unified" if case.causal else "kvcache")
    assert_exact(case, done)


@pytest.mark.parametrize("feature", ["-softcap3", "-alibi", "-sinks", "-cache.e4m3fn", "-w4:inf-softcap3-alibi-sinks"])
@pytest.mark.parametrize("lengths", [UNIFORM["drafts"], RAGGED["ragged"]])
def test_features_of_causal_attention_arrive(lengths: str, feature: str) -> None:
    case = Case.parse(f"decode-causal-bf16-{lengths}{feature}-packed-random")
    assert_exact(case, served(case, Kernels()))


@pytest.mark.parametrize("mode", ["causal", "noncausal"])
@pytest.mark.parametrize("lengths", [UNIFORM["drafts"], RAGGED["ragged"]])
def test_a_scale_arrives(mode: str, lengths: str) -> None:
    case = case_of(mode, lengths, extra="-scale0.7")
    assert_exact(case, served(case, Kernels()))


@pytest.mark.parametrize(("word", "bound"), [("", 30), ("-max4096", 4096)])
def test_the_backend_tells_unified_attention_the_bound_of_the_keys(
    word: str, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, case = Kernels(), case_of("causal", UNIFORM["drafts"], extra=word)
    monkeypatch.setattr(aiter, "_arch", ["gfx942"])
    monkeypatch.setitem(aiter._kernels, "unified", kernels.load("unified"))
    inputs = make(case)
    answer = aiter.attend(case, inputs)
    (called,) = (arguments for _, arguments in kernels.called)
    assert called["max_seqlen_k"] == bound
    assert judge(case, exact(case, inputs), answer.out).status is Status.PASS


@pytest.mark.parametrize("mode", ["causal", "noncausal"])
@pytest.mark.parametrize("lengths", [UNIFORM["drafts"], RAGGED["ragged"]])
def test_queries_may_be_a_slice_of_a_wider_tensor(mode: str, lengths: str) -> None:
    """As a model's fused projection hands them over."""
    case = case_of(mode, lengths)
    q = make(case).q.double()
    wide = torch.full((len(q), q.shape[1] + 4, q.shape[2]), torch.nan, dtype=torch.float64)
    wide[:, : q.shape[1]] = q
    assert_exact(case, served(case, Kernels(), q=wide[:, : q.shape[1]]))


def test_an_element_that_the_kernel_does_not_write_is_nan() -> None:
    case = case_of("causal", UNIFORM["drafts"])
    inputs = make(case)
    done = forward(
        layer_of(case, inputs), built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache,
        load=lambda name: lambda **_: None,
    )  # fmt: skip
    assert bool(done.out.isnan().all())


# -- no batch reaches a kernel that is wrong for it ------------------------------------------------------------------


@st.composite
def decodes(draw: st.DrawFn) -> Case:
    batch = draw(st.integers(1, 4))
    queries = draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch).filter(any))
    if draw(st.booleans()):
        queries = [max(queries)] * batch
    return Case(
        causal=draw(st.booleans()),
        dtype="bf16",
        query_lens=tuple(queries),
        seq_lens=tuple(draw(st.lists(st.integers(0, 12), min_size=batch, max_size=batch))),
        q_heads=2,
        kv_heads=draw(st.sampled_from((1, 2))),
        head_dim=16,
        page_size=draw(st.sampled_from((1, 4, 16))),
        window=draw(st.sampled_from(WINDOWS)),
    )


@given(decodes(), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_mask_never_reaches_the_other_kernel(case: Case, for_drafting: bool) -> None:
    kernels = Kernels()
    uniform = len(set(case.query_lens)) == 1
    if case.causal and set(case.query_lens) == {0, 1}:
        with pytest.raises(Unsupported, match="row i for the query of sequence i"):
            served(case, kernels)
        assert kernels.called == []
        return
    done = served(case, kernels, for_drafting=for_drafting and uniform)
    ((name, arguments),) = kernels.called
    assert name == ("unified" if case.causal else "kvcache")
    assert arguments["causal"] is case.causal
    assert_exact(case, done)


@pytest.mark.parametrize("lengths", (UNIFORM | RAGGED).values(), ids=UNIFORM | RAGGED)
def test_what_the_non_causal_kernel_lacks_is_refused(lengths: str) -> None:
    """And may be probed, where the kernel has a parameter for it."""
    case = case_of("noncausal", lengths)
    inputs = make(case)
    heads = torch.ones(case.q_heads)
    for feature, what, probed in (
        ({"alibi_slopes": heads}, "ALiBi", False),
        ({"sinks": heads}, "attention sinks", False),
        ({"softcap": 30.0}, "softcap", True),
        ({"k_descale": torch.ones(case.batch, 1)}, "descale for 16-bit queries", True),
        ({"v_descale": torch.ones(case.batch, 1)}, "descale for 16-bit queries", True),
    ):
        layer = replace(AttentionLayer(scale=1.0), **feature)
        with pytest.raises(Unsupported) as refused:
            forward(layer, built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache, load=no_kernel)
        assert str(refused.value) == f"flash_attn_with_kvcache has no {what}, and no other kernel is non-causal"
        assert (refused.value.probe is not None) is probed


def test_a_probe_asks_the_kernel_for_what_was_refused() -> None:
    case, kernels = case_of("noncausal", UNIFORM["drafts"], extra="-softcap3"), Kernels()
    with pytest.raises(Unsupported) as refused:
        served(case, kernels)
    assert kernels.called == []
    assert refused.value.probe is not None
    with pytest.raises(NotImplementedError, match="softcap not implemented"):
        refused.value.probe()
    ((name, arguments),) = kernels.called
    assert (name, arguments["softcap"]) == ("kvcache", 3.0)


def test_descales_that_differ_from_head_to_head_are_not_claimed_of_unified_attention() -> None:
    """It takes the first for all; asked anyway, it answers, and wrongly."""
    case = case_of("causal", UNIFORM["drafts"], extra="-cache.e4m3fn")
    inputs = make(case)
    assert inputs.k_descale is not None
    by_head = inputs.k_descale * torch.tensor([1.0, 4.0])
    want = exact(case, replace(inputs, k_descale=by_head))
    layer = replace(layer_of(case, inputs), k_descale=by_head, several_descales=True)
    with pytest.raises(Unsupported, match=r"^unified_attention reads one descale, which it takes for") as refused:
        forward(layer, built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache, load=Kernels().load)
    assert refused.value.probe is not None
    done = refused.value.probe()
    assert judge(case, want, done.out).status is Status.MISMATCH


def row_by_sequence(unified: Callable[..., Any]) -> Callable[..., None]:
    """AITER's kernel where the longest query is one: row i, of q and of the output, is taken for sequence i's."""

    def kernel(*, q: Tensor, out: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int, **rest: Any) -> None:
        if max_seqlen_q == 1:
            cu_seqlens_q = torch.arange(len(cu_seqlens_q), dtype=torch.int32).clamp(max=len(q))
        unified(q=q, out=out, cu_seqlens_q=cu_seqlens_q, max_seqlen_q=max_seqlen_q, **rest)

    return kernel


@pytest.mark.parametrize("queries", ["q0+1x2", "q1+0+1"])
def test_single_tokens_beside_an_idle_sequence_are_not_claimed_of_unified_attention(queries: str) -> None:
    """Asked anyway, as vLLM asks it, it gives the idle sequence the next one's row."""
    case, kernels = case_of("causal", f"b3-{queries}-h4:2-d16-p4-kv9+5+21"), Kernels()
    right = kernels.load("unified")
    assert right is not None
    inputs, unified = make(case), row_by_sequence(right)
    with pytest.raises(Unsupported, match=r"^unified_attention takes row i for the query of sequence i") as refused:
        forward(layer_of(case, inputs), built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache,
                load=lambda name: unified)  # fmt: skip
    assert kernels.called == []
    assert refused.value.probe is not None
    done = refused.value.probe()
    assert kernels.called[0][1]["max_seqlen_q"] == 1
    assert judge(case, exact(case, inputs), done.out).status is Status.MISMATCH


@pytest.mark.parametrize("lengths", ["b2-q2+0-h4:2-d16-p4-kv9+5", "b2-q1-h4:2-d16-p4-kv0+5"])
def test_other_decodes_that_lack_a_query_or_a_key_are_claimed(lengths: str) -> None:
    case = case_of("causal", lengths)
    assert_exact(case, served(case, Kernels()))


@pytest.mark.parametrize("feature", ["-softcap30", "-cache.e4m3fnuz"])
def test_the_backend_passes_a_probe_on(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an answer, judged by what the path that it took rounds."""

    def answers_anyway(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(q), q.new_zeros(q.shape[0], q.shape[2], q.shape[1])

    case = case_of("noncausal", UNIFORM["drafts"], extra=feature)
    monkeypatch.setattr(aiter, "_arch", ["gfx942"])
    monkeypatch.setitem(aiter._kernels, "kvcache", answers_anyway)
    with pytest.raises(Unsupported) as refused:
        aiter.attend(case, make(case))
    assert refused.value.probe is not None
    answer = refused.value.probe()
    assert isinstance(answer, Answer)
    assert answer.path == "kvcache"
    assert answer.profile == aiter.rounding("kvcache", case)


def test_non_causal_is_claimed() -> None:
    assert supports_non_causal() is True
