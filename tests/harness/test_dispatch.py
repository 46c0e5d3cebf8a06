"""The dispatch, on kernels written here: every path equals the oracle, and a mask reaches only a kernel that has it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.case import Case
from conformance.dispatch import (
    AttentionLayer,
    AttentionMetadata,
    Dispatched,
    MetadataBuilder,
    ScheduledBatch,
    forward,
    supports_non_causal,
)
from conformance.execute import exact
from conformance.inputs import Inputs, make
from conformance.status import Unsupported

# -- AITER's two kernels, as their callers know them -----------------------------------------------------------------


def rows_of_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: tuple[int, int], scale: float, softcap: float = 0.0,
    slopes: Tensor | None = None, sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries [m, Hq, D] over keys [n, Hkv, D], the plain way: out [m, Hq, D] and lse [m, Hq], float64."""
    (m, q_heads, _), n = q.shape, len(k)
    out, lse = torch.zeros(q.shape, dtype=torch.float64), torch.full((m, q_heads), -math.inf, dtype=torch.float64)
    for i in range(m):
        stand = n - m + i
        first = max(0, stand - window[0]) if window[0] >= 0 else 0
        end = min(n, stand + 1) if causal else n
        end = max(0, min(end, stand + window[1] + 1) if window[1] >= 0 else end)
        for head in range(q_heads):
            kv = head // (q_heads // k.shape[1])
            scores = (k[first:end, kv].double() @ q[i, head].double()) * scale
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            if slopes is not None:
                scores = scores + slopes[head].double() * (torch.arange(first, first + len(scores)) - stand)
            weights = scores.exp()
            total = weights.sum() + (sinks[head].double().exp() if sinks is not None else 0)
            if float(total) > 0:
                out[i, head] = weights @ v[first:end, kv].double() / total
                lse[i, head] = total.log()
    return out, lse


def unified(
    *, q: Tensor, k: Tensor, v: Tensor, out: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int, seqused_k: Tensor,
    max_seqlen_k: int, softmax_scale: float, causal: bool, window_size: tuple[int, int], block_table: Tensor,
    softcap: float, q_descale: None, k_descale: Tensor | None, v_descale: Tensor | None,
    alibi_slopes: Tensor | None = None, sinks: Tensor | None = None,
) -> None:  # fmt: skip
    """Causal only, packed queries, and blind to the right side of a window, as AITER's is."""
    assert causal, "Only causal attention is supported"
    starts = cu_seqlens_q.tolist()
    assert max(b - a for a, b in pairwise(starts)) <= max_seqlen_q
    assert int(seqused_k.max()) <= max_seqlen_k
    for b, (start, end) in enumerate(pairwise(starts)):
        keys, values = (
            pages_of(cache, block_table[b], int(seqused_k[b])).double() * (1.0 if descale is None else descale[0, 0])
            for cache, descale in ((k, k_descale), (v, v_descale))
        )
        window = window_size[0], -1
        out[start:end] = rows_of_attention(
            q[start:end], keys, values, True, window, softmax_scale, softcap, alibi_slopes, sinks
        )[0].to(out.dtype)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, *, cache_seqlens: Tensor, softmax_scale: float, causal: bool = True,
    window_size: tuple[int, int] = (-1, -1), page_table: Tensor, return_softmax_lse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries [B, m, Hq, D], the same number for each sequence: out of that shape, and lse [B, Hq, m]."""
    assert return_softmax_lse
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[0], q.shape[2], q.shape[1])
    for b in range(len(q)):
        keys, values = (pages_of(cache, page_table[b], int(cache_seqlens[b])) for cache in (k_cache, v_cache))
        rows, sums = rows_of_attention(q[b], keys, values, causal, window_size, softmax_scale)
        out[b], lse[b] = rows.to(q.dtype), sums.T
    return out, lse


def pages_of(cache: Tensor, table: Tensor, n: int) -> Tensor:
    pages = -(-n // cache.shape[1])
    return cache[table[:pages].long()].flatten(0, 1)[:n]


@dataclass
class Kernels:
    """What `forward` loads from; remembers the calls."""

    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def load(self, name: str) -> Callable[..., Any]:
        kernel = {"unified": unified, "kvcache": flash_attn_with_kvcache}[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            self.called.append((name, kwargs))
            return kernel(*args, **kwargs)

        return call


def no_kernel(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"{name} was called")

    return call


# -- batches ---------------------------------------------------------------------------------------------------------


def scheduled(case: Case, inputs: Inputs, *, on_host: bool = True) -> ScheduledBatch:
    return ScheduledBatch(
        query_start_loc=inputs.query_start_loc,
        seq_lens=inputs.seq_lens,
        block_table=inputs.block_table,
        num_actual_tokens=case.tokens,
        max_query_len=max(case.query_lens),
        max_seq_len=max(case.seq_lens),
        causal=case.causal,
        query_lens_on_host=case.query_lens if on_host else None,
        seq_lens_on_host=case.seq_lens if on_host else None,
    )


def built(case: Case, inputs: Inputs, *, for_drafting: bool = False) -> AttentionMetadata:
    builder = MetadataBuilder(decode_threshold=max(case.query_lens))
    if for_drafting:
        return builder.build_for_drafting(scheduled(case, inputs, on_host=False))
    return builder.build(scheduled(case, inputs))


def layer_of(case: Case, inputs: Inputs) -> AttentionLayer:
    return AttentionLayer(
        scale=inputs.scale,
        window=case.window,
        softcap=case.softcap,
        alibi_slopes=inputs.alibi_slopes,
        sinks=inputs.sinks,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
    )


def served(case: Case, kernels: Kernels, *, for_drafting: bool = False, q: Tensor | None = None) -> Dispatched:
    inputs = make(case)
    q = inputs.q.double() if q is None else q  # so that the kernels here store float64, and can be compared exactly
    metadata = built(case, inputs, for_drafting=for_drafting)
    return forward(layer_of(case, inputs), metadata, q, inputs.k_cache, inputs.v_cache, load=kernels.load)


def assert_exact(case: Case, done: Dispatched) -> None:
    want = exact(case, make(case), sums=False)
    torch.testing.assert_close(done.out, want.out, rtol=1e-9, atol=1e-12)
    if done.lse is not None:
        torch.testing.assert_close(done.lse.double(), want.lse, rtol=1e-5, atol=1e-5)


WINDOWS = ((-1, -1), (5, -1), (-1, 3), (4, 2), (0, 0), (7, 0))

UNIFORM = {"one token": "b3-q1-h4:2-d16-p4-kv9+1+17", "drafts": "b3-q5-h4:2-d16-p4-kv30+5+9"}
RAGGED = {
    "ragged": "b3-q1+5+2-h4:2-d16-p4-kv9+5+21",
    "ragged with an idle sequence": "b4-q2+0+1x2-h2:2-d16-p8-kv7+3+8+20",
}
DRAFTS = UNIFORM | {"nothing to see": "b3-q4-h2:1-d16-p4-kv0+2+11"}
EDGES = {"nothing to see": "b3-q4-h2:1-d16-p4-kv0+2+11", "ragged, nothing to see": "b3-q4+1+2-h2:1-d16-p4-kv0+2+1"}


def case_of(mode: str, lengths: str, window: tuple[int, int] = (-1, -1), extra: str = "") -> Case:
    text = f"decode-{mode}-bf16-{lengths}{extra}-packed-random"
    return replace(Case.parse(text), window=window)


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
    done = served(case, kernels, for_drafting=for_drafting and uniform)
    ((name, arguments),) = kernels.called
    assert name == ("unified" if case.causal else "kvcache")
    assert arguments["causal"] is case.causal
    assert_exact(case, done)


@pytest.mark.parametrize("lengths", (UNIFORM | RAGGED).values(), ids=UNIFORM | RAGGED)
def test_what_the_non_causal_kernel_lacks_is_refused(lengths: str) -> None:
    case = case_of("noncausal", lengths)
    inputs = make(case)
    heads = torch.ones(case.q_heads)
    for feature, what in (
        ({"alibi_slopes": heads}, "ALiBi"),
        ({"sinks": heads}, "attention sinks"),
        ({"softcap": 30.0}, "softcap"),
        ({"k_descale": torch.ones(1, 1)}, "descale for 16-bit queries"),
        ({"v_descale": torch.ones(1, 1)}, "descale for 16-bit queries"),
    ):
        layer = replace(AttentionLayer(scale=1.0), **feature)
        with pytest.raises(Unsupported) as refused:
            forward(layer, built(case, inputs), inputs.q, inputs.k_cache, inputs.v_cache, load=no_kernel)
        assert str(refused.value) == f"flash_attn_with_kvcache has no {what}, and no other kernel is non-causal"


@pytest.mark.parametrize("mode", ["causal", "noncausal"])
@pytest.mark.parametrize(
    "lengths", ["b2-q1+8-h2:2-d16-p4-kv9+20", "b2-q1+8-h2:2-d16-p4-kv9+8"], ids=["extend", "prefill"]
)
def test_extend_and_prefill_are_refused(mode: str, lengths: str) -> None:
    case = case_of(mode, lengths)
    inputs = make(case)
    metadata = MetadataBuilder(decode_threshold=4).build(scheduled(case, inputs))
    with pytest.raises(Unsupported) as refused:
        forward(layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache, load=no_kernel)
    assert str(refused.value) == "extend and prefill are not dispatched yet: decode only"


def test_non_causal_is_claimed() -> None:
    assert supports_non_causal() is True


# -- the builder -----------------------------------------------------------------------------------------------------


def counts(query_lens: tuple[int, ...], seq_lens: tuple[int, ...], threshold: int) -> tuple[int, int, int, bool]:
    plain = Case.parse("decode-causal-bf16-b1-q1-h1:1-d8-p4-kv1-contiguous-random")
    case = replace(plain, query_lens=query_lens, seq_lens=seq_lens)
    metadata = MetadataBuilder(decode_threshold=threshold).build(scheduled(case, make(case)))
    return metadata.num_decodes, metadata.num_extends, metadata.num_prefills, metadata.uniform_query_len


@pytest.mark.parametrize(
    ("query_lens", "seq_lens", "threshold", "expected"),
    [
        ((1, 1, 1), (9, 1, 4), 1, (3, 0, 0, True)),
        ((1, 2, 2), (9, 8, 2), 1, (1, 1, 1, False)),
        ((1, 2, 2), (9, 8, 2), 2, (3, 0, 0, False)),
        ((8, 8), (20, 8), 8, (2, 0, 0, True)),  # as many queries as keys, but within the threshold: a decode
        ((8, 9, 9), (20, 20, 9), 8, (1, 1, 1, False)),
        ((0, 4), (5, 9), 4, (2, 0, 0, False)),  # an idle sequence decodes nothing
        ((9, 9), (20, 30), 8, (0, 2, 0, True)),
        ((9, 12), (9, 12), 8, (0, 0, 2, False)),
        ((9, 12), (0, 4), 8, (0, 2, 0, False)),  # more queries than keys, as padding makes them
    ],
)
def test_a_batch_is_told_apart_by_its_lengths(
    query_lens: tuple[int, ...], seq_lens: tuple[int, ...], threshold: int, expected: tuple[int, int, int, bool]
) -> None:
    assert counts(query_lens, seq_lens, threshold) == expected


@pytest.mark.parametrize(
    ("query_lens", "seq_lens"),
    [((9, 1), (20, 5)), ((9, 1), (9, 5)), ((9, 9), (9, 20)), ((1, 9, 1), (5, 20, 5))],
    ids=["extend, decode", "prefill, decode", "prefill, extend", "decode, extend, decode"],
)
def test_another_order_is_refused(query_lens: tuple[int, ...], seq_lens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^a batch must hold its decodes first, then its extends, then its prefills$"):
        counts(query_lens, seq_lens, threshold=8)


@pytest.mark.parametrize("missing", ["query_lens_on_host", "seq_lens_on_host"])
def test_build_needs_the_lengths_on_the_host(missing: str) -> None:
    case = case_of("causal", UNIFORM["drafts"])
    batch = replace(scheduled(case, make(case)), **{missing: None})
    with pytest.raises(ValueError, match=r"^build needs the host's copies of the query and sequence lengths$"):
        MetadataBuilder(decode_threshold=8).build(batch)


def test_host_lengths_of_different_counts_are_refused() -> None:
    case = case_of("causal", UNIFORM["drafts"])
    batch = replace(scheduled(case, make(case)), seq_lens_on_host=(30, 5))
    with pytest.raises(ValueError):  # noqa: PT011
        MetadataBuilder(decode_threshold=8).build(batch)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("for_drafting", [True, False])
def test_metadata_passes_on_what_it_was_given(for_drafting: bool, causal: bool) -> None:
    case = case_of("causal" if causal else "noncausal", UNIFORM["drafts"])
    inputs = make(case)
    metadata = built(case, inputs, for_drafting=for_drafting)
    assert metadata.causal is causal
    assert metadata.query_start_loc is inputs.query_start_loc
    assert metadata.seq_lens is inputs.seq_lens
    assert metadata.block_table is inputs.block_table
    assert (metadata.num_actual_tokens, metadata.max_query_len, metadata.max_seq_len) == (15, 5, 30)
    assert (metadata.num_decodes, metadata.num_extends, metadata.num_prefills) == (3, 0, 0)
    assert metadata.uniform_query_len is True


@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED)
def test_a_ragged_draft_is_refused(lengths: str) -> None:
    case = case_of("noncausal", lengths)
    sentence = f"^{case.batch} drafts of {max(case.query_lens)} tokens are not {case.tokens} tokens$"
    with pytest.raises(ValueError, match=sentence):
        MetadataBuilder().build_for_drafting(scheduled(case, make(case), on_host=False))


# -- nothing is read back from the device ----------------------------------------------------------------------------


class NoCopyToTheHost(TorchDispatchMode):
    """Fails on every operation that makes the host wait for a value, or for a size that depends on one."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(self.WAITS), f"{name} makes the host wait for the device"
        target = (kwargs or {}).get("device")
        assert target is None or torch.device(target).type == "meta", f"{name} moves data to {target}"
        return func(*args, **(kwargs or {}))


@contextmanager
def a_device_without_values() -> Iterator[torch.device]:
    """Tensors on the meta device have shapes and no values: whatever reads one raises."""
    with NoCopyToTheHost():
        yield torch.device("meta")


def shapes_alone(name: str) -> Callable[..., Any]:
    """Kernels for tensors without values."""

    def kvcache(q: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1])

    return kvcache if name == "kvcache" else lambda **_: None


@pytest.mark.parametrize("mode", ["causal", "noncausal"])
@pytest.mark.parametrize("lengths", (UNIFORM | RAGGED).values(), ids=UNIFORM | RAGGED)
def test_the_host_never_waits_for_the_device(mode: str, lengths: str) -> None:
    case = case_of(mode, lengths)
    inputs = make(case).to(torch.device("meta"))
    uniform = len(set(case.query_lens)) == 1
    with a_device_without_values():
        ways = [built(case, inputs), *([built(case, inputs, for_drafting=True)] if uniform else [])]
        for metadata in ways:
            done = forward(
                layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache, load=shapes_alone
            )
            assert done.out.shape == inputs.q.shape
            assert done.lse is None or done.lse.shape == inputs.q.shape[:2]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.numpy(),
        bool,
        int,
        lambda x: x.repeat(3)[x.repeat(3) > 0],
        lambda x: x.repeat(3).nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1], device="cpu") + x.to("cpu"),
    ],
    ids=["item", "tolist", "cpu", "to", "numpy", "bool", "int", "mask", "nonzero", "equal", "add"],
)
def test_a_copy_to_the_host_would_be_noticed(read: Callable[[Tensor], object]) -> None:
    with (
        a_device_without_values() as device,
        pytest.raises((AssertionError, RuntimeError, NotImplementedError, TypeError)),
    ):
        read(torch.ones(1, dtype=torch.int32, device=device))
