"""Extends, prefills and mixed batches: every path, with every mask and window, equals the oracle or is refused."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.backends import aiter
from conformance.case import DECODE, Case
from conformance.dispatch import extend, forward, prefill
from conformance.dispatch.layer import Answered, Call
from conformance.dispatch.metadata import Part
from conformance.execute import exact
from conformance.inputs import make
from conformance.judge import judge
from conformance.status import Status, Unsupported
from tests.harness.dispatch_kernels import ROCM, TRITON, Kernels
from tests.harness.dispatched import WINDOWS, assert_exact, built, case_of, layer_of, served

OFFERS = {"mha": TRITON, "ck": ROCM}

PARTS = {
    "prefill": ("b2-q9+7-h4:2-d16-p4-kv9+7", 1),
    "extend": ("b3-q9+5+4-h4:2-d16-p4-kv30+6+17", 1),
    "mixed": ("b6-q1+3+9+6+7+5-h4:2-d16-p4-kv12+3+40+7x2+5", 3),
    "mixed, one token decodes": ("b4-q1x2+4+2-h2:1-d16-p4-kv9+4+11+2", 1),
}
"""Lengths, and up to how many queries decode."""

PATHS = {
    ("prefill", True): "prefill.V",
    ("prefill", False): "prefill.V",
    ("extend", True): "extend.V",
    ("extend", False): "extend.V",
    ("mixed", True): "unified+extend.V+prefill.V",
    ("mixed", False): "kvcache.padded+extend.V+prefill.V",
    ("mixed, one token decodes", True): "unified+extend.V+prefill.V",
    ("mixed, one token decodes", False): "kvcache+extend.V+prefill.V",
}

CAUSAL = {"causal": True, "noncausal": False}


def refused(kernel: str, causal: bool, window: tuple[int, int]) -> str:
    """What the kernel lacks for such a mask, if anything."""
    left, right = window
    if kernel == "mha" and right >= 0 and not causal:
        return "flash_attn_varlen_func in Triton has no right side of a window"
    if kernel == "mha" and left == 0:
        return "flash_attn_varlen_func in Triton takes a window of no key to the left for none at all"
    return ""


@pytest.mark.parametrize("chunk", [0, 1, 7, 16], ids="chunk{}".format)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("kernel", OFFERS)
@pytest.mark.parametrize("mode", CAUSAL)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_equals_the_oracle_or_is_refused(
    part: str, mode: str, kernel: str, window: tuple[int, int], chunk: int
) -> None:
    (lengths, threshold), causal = PARTS[part], CAUSAL[mode]
    case, kernels = case_of(mode, lengths, window, threshold=threshold, chunk=chunk), Kernels(OFFERS[kernel])
    if sentence := refused(kernel, causal, window):
        with pytest.raises(Unsupported) as error:
            served(case, kernels)
        assert str(error.value) == sentence
        return
    done = served(case, kernels)
    path = PATHS[part, causal].replace("V", kernel)
    assert done.path == (path.replace("extend.", "extend.window.") if window[0] >= 0 else path)
    assert (done.lse is None) == ("unified" in path)
    assert_exact(case, done)


@pytest.mark.parametrize("mode", CAUSAL)
@pytest.mark.parametrize("chunk", [0, 5])
def test_context_chunks_are_attended_without_a_mask_and_new_tokens_with_the_one_asked_for(
    mode: str, chunk: int
) -> None:
    kernels = Kernels()
    served(case_of(mode, "b2-q4+3-h2:1-d16-p4-kv15+5", threshold=1, chunk=chunk), kernels)
    calls = [(call["causal"], call["cu_seqlens_k"].tolist()) for _, call in kernels.called]
    chunks = [[0, 5, 7], [0, 5, 5], [0, 1, 1]] if chunk else [[0, 11, 13]]
    assert calls == [(CAUSAL[mode], [0, 4, 7]), *((False, starts) for starts in chunks)]


@pytest.mark.parametrize("mode", CAUSAL)
def test_only_keys_in_reach_of_a_window_are_fetched(mode: str) -> None:
    """From `n - m - left` on: key 6 of 15, and of a short sequence all."""
    kernels = Kernels()
    served(case_of(mode, "b2-q4+3-h2:1-d16-p4-kv15+5", (5, -1), threshold=1), kernels)
    ((_, call),) = kernels.called
    assert call["cu_seqlens_k"].tolist() == [0, 9, 14]


# -- the features of the kernels ---------------------------------------------------------------------------------------

EXTEND, PREFILL = ("b2-q5+4-h4:2-d16-p4-kv22+9", 1), ("b2-q5+4-h4:2-d16-p4-kv5+4", 1)
MIXED = ("b3-q2+5+4-h4:2-d16-p4-kv9+22+4", 2)


@pytest.mark.parametrize(
    ("mode", "offers", "lengths", "feature"),
    [
        ("causal", TRITON, EXTEND, "-sinks"),
        ("causal", TRITON, EXTEND, "-w6:inf-sinks"),
        ("causal", TRITON, EXTEND, "-w6:inf-alibi"),
        ("causal", TRITON, EXTEND, "-cache.e4m3fn"),
        ("causal", TRITON, EXTEND, "-w6:inf-cache.e4m3fnuz"),
        ("causal", TRITON, PREFILL, "-sinks"),
        ("causal", TRITON, PREFILL, "-alibi"),
        ("causal", TRITON, MIXED, "-w6:inf-alibi-sinks-cache.e4m3fn"),
        ("causal", TRITON, MIXED, "-sinks"),
        ("causal", ROCM, EXTEND, "-softcap3-sinks"),
        ("causal", ROCM, MIXED, "-w6:inf-softcap3-alibi-sinks"),
        ("noncausal", TRITON, EXTEND, "-sinks"),
        ("noncausal", TRITON, PREFILL, "-sinks"),
        ("noncausal", ROCM, EXTEND, "-softcap3"),
        ("noncausal", ROCM, EXTEND, "-w6:2-softcap3-sinks"),
        ("noncausal", TRITON, EXTEND, "-cache.e4m3fn"),
    ],
)
@pytest.mark.parametrize("chunk", [0, 6])
def test_features_arrive(
    mode: str, offers: tuple[str, ...], lengths: tuple[str, int], feature: str, chunk: int
) -> None:
    case = case_of(mode, lengths[0], extra=feature, threshold=lengths[1], chunk=chunk)
    assert_exact(case, served(case, Kernels(offers)))


@pytest.mark.parametrize(
    ("mode", "offers", "lengths", "feature", "sentence"),
    [
        ("causal", TRITON, PREFILL, "-softcap3", "flash_attn_varlen_func in Triton has no softcap"),
        (
            "causal",
            ROCM,
            EXTEND,
            "-alibi",
            "flash_attn_varlen_func counts ALiBi from the last key of a part, not from t",
        ),
        (
            "noncausal",
            ROCM,
            PREFILL,
            "-alibi",
            "ALiBi of flash_attn_varlen_func falls to both sides of a query, and is a",
        ),
        ("noncausal", ROCM, MIXED, "-sinks", "flash_attn_with_kvcache has no attention sinks, and no other kernel is "),
        ("causal", ("kvcache", "unified"), MIXED, "", "this AITER has no mha kernel"),
        ("causal", ("mha",), MIXED, "", "this AITER has no unified kernel"),
    ],
)
def test_what_no_kernel_computes_is_refused(
    mode: str, offers: tuple[str, ...], lengths: tuple[str, int], feature: str, sentence: str
) -> None:
    case = case_of(mode, lengths[0], extra=feature, threshold=lengths[1])
    with pytest.raises(Unsupported) as error:
        served(case, Kernels(offers))
    assert str(error.value).startswith(sentence)
    assert error.value.probe is None


def test_keys_of_new_tokens_are_needed() -> None:
    case = case_of("causal", EXTEND[0], threshold=1)
    inputs = make(case)
    with pytest.raises(ValueError, match=r"^extends and prefills need the keys and values of their new tokens$"):
        forward(layer_of(case, inputs), built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache,
                load=Kernels().load)  # fmt: skip


def test_metadata_of_another_window_is_refused() -> None:
    """What was gathered, or trimmed, for one window is wrong for another."""
    case = case_of("causal", EXTEND[0], (5, -1), threshold=1)
    inputs = make(case)
    layer = replace(layer_of(case, inputs), window=(7, -1))
    with pytest.raises(ValueError, match=r"^metadata for a window 5 keys to the left, a layer with \(7, -1\)$"):
        forward(layer, built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache, load=Kernels().load)


@st.composite
def steps(draw: st.DrawFn) -> Case:
    """Decodes of up to `threshold` queries, extends and prefills of more."""
    threshold, lens = draw(st.integers(1, 3)), st.integers(0, 9)
    decodes = [(draw(st.integers(0, threshold)), draw(lens)) for _ in range(draw(st.integers(0, 2)))]
    new = st.integers(threshold + 1, 7)
    extends = [(m := draw(new), m + 1 + draw(lens)) for _ in range(draw(st.integers(0, 2)))]
    prefills = [(m := draw(new), m) for _ in range(draw(st.integers(0, 2)))]
    queries, keys = zip(*([*decodes, *extends, *prefills] or [(threshold + 1, 12)]), strict=True)
    if max(queries) <= threshold:
        queries, keys = (*queries, threshold + 1), (*keys, threshold + 1)
    case = Case(
        causal=draw(st.booleans()),
        dtype="bf16",
        query_lens=queries,
        seq_lens=keys,
        q_heads=2,
        kv_heads=draw(st.sampled_from((1, 2))),
        head_dim=16,
        page_size=draw(st.sampled_from((1, 4, 16))),
        window=draw(st.sampled_from(WINDOWS)),
        decode_threshold=threshold,
    )
    return replace(case, chunk=draw(st.integers(0, 6))) if case.takes_chunks else case


@given(steps(), st.sampled_from(sorted(OFFERS)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_step_equals_the_oracle_or_is_refused_by_what_a_kernel_lacks(case: Case, kernel: str) -> None:
    decoded = {m for m, kind in zip(case.query_lens, case.kinds, strict=True) if kind == DECODE}
    idle = case.causal and decoded == {0, 1}
    sentence = "takes row i for the query of sequence i" if idle else refused(kernel, case.causal, case.window)
    if sentence:
        with pytest.raises(Unsupported, match=sentence):
            served(case, Kernels(OFFERS[kernel]))
    else:
        assert_exact(case, served(case, Kernels(OFFERS[kernel])))


# -- causal, whatever was asked for: what vLLM's extends do ------------------------------------------------------------

Attend = Callable[[Call, Part], Answered]


def always_causal(attend: Attend) -> Attend:
    return lambda call, part: attend(replace(call, causal=True), part)


HARD_CODED = {
    "extend": (extend, EXTEND, (-1, -1)),
    "extend, chunked": (extend, ("b2-q3+4-h4:2-d16-p4-kv25+7", 1), (-1, -1)),
    "extend.window": (extend, EXTEND, (6, -1)),
    "extend.window, all in reach": (extend, EXTEND, (60, -1)),
    "prefill": (prefill, PREFILL, (-1, -1)),
    "prefill, window": (prefill, PREFILL, (2, -1)),
    "extend of a mixed batch": (extend, MIXED, (-1, -1)),
    "prefill of a mixed batch": (prefill, MIXED, (-1, -1)),
}


@pytest.mark.parametrize(("module", "lengths", "window"), HARD_CODED.values(), ids=HARD_CODED)
def test_a_mask_that_is_always_causal_is_a_mismatch(
    module: ModuleType, lengths: tuple[str, int], window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of("noncausal", lengths[0], window, threshold=lengths[1], chunk=8)
    inputs = make(case)
    want = exact(case, inputs)

    def status() -> Status:
        done = served(case, Kernels(), q=inputs.q)
        return judge(case, want, done.out, done.lse, aiter.rounding(done.path, case)).status

    assert status() is Status.PASS
    monkeypatch.setattr(module, "attend", always_causal(module.attend))
    assert status() is Status.MISMATCH
