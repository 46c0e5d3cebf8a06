"""Packed queries over packed keys: `flash_attn_varlen_func`, AITER's own (CK) or its relative in Triton.

Both place the last query of a sequence at its last key, causal or not, and give the natural logarithm of the sum, a
sink's share included: CK as [Hq, T], the relative as [T, Hq]. Their ALiBi is `-slope |distance|`: equal to
`slope (key - query)` up to the query, and its opposite to the right of it.
"""

from dataclasses import dataclass

from torch import Tensor

from conformance.dispatch.layer import Call
from conformance.dispatch.metadata import Part
from conformance.status import Unsupported


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys and values [N, Hkv, D], sequence after sequence."""

    k: Tensor
    v: Tensor
    cu_seqlens: Tensor  # int32 [S + 1]
    longest: int


@dataclass(frozen=True)
class Attended:
    """`out` [T, Hq, D] in q's dtype, `lse` [T, Hq], and which kernel it was."""

    out: Tensor
    lse: Tensor
    kernel: str


def attend(
    call: Call, part: Part, keys: Keys, *, causal: bool, window: tuple[int, int], sinks: Tensor | None
) -> Attended:
    """Attention of a part's queries over some keys. Raises Unsupported."""
    if call.q.itemsize < 2:
        raise Unsupported("flash_attn_varlen_func has no descale, so that float8 queries cannot be told their size")
    if call.layer.alibi_slopes is not None and not causal:
        raise Unsupported(
            "ALiBi of flash_attn_varlen_func falls to both sides of a query, and is asked to rise on the right"
        )
    left, right = window
    window = (left, -1 if causal else right)  # a causal query sees nothing to its right
    by = _ck if call.load("ck") is not None else _mha
    return by(call, part, keys, causal, window, sinks)


def _ck(call: Call, part: Part, keys: Keys, causal: bool, window: tuple[int, int], sinks: Tensor | None) -> Attended:
    """`aiter.flash_attn_varlen_func`, as its source has it from v0.1.9.post1 to v0.1.20.post1; never run here.

    It has no `sink_ptr` before v0.1.13, so that one is named only where it is needed.
    """
    out, lse = call.kernel("ck")(
        q=call.q[part.tokens],
        k=keys.k,
        v=keys.v,
        cu_seqlens_q=part.query_start_loc,
        cu_seqlens_k=keys.cu_seqlens,
        max_seqlen_q=part.max_query_len,
        max_seqlen_k=keys.longest,
        min_seqlen_q=1,
        dropout_p=0.0,
        softmax_scale=call.layer.scale,
        logits_soft_cap=call.layer.softcap,
        causal=causal,
        window_size=window,
        alibi_slopes=call.layer.alibi_slopes,
        return_lse=True,
        **({} if sinks is None else {"sink_ptr": sinks}),
    )
    return Attended(out, lse.transpose(0, 1), "ck")


def _mha(call: Call, part: Part, keys: Keys, causal: bool, window: tuple[int, int], sinks: Tensor | None) -> Attended:
    """`aiter.ops.triton.attention.mha.flash_attn_varlen_func`, as v0.1.16 and v0.1.20.post1 ran on the interpreter.

    Right: causal or not, fewer queries than keys, a window on the left, ALiBi up to the query, sinks, heads of any
    dimension, query rows that lie apart. A sequence without keys has output 0 and lse -inf. A window's right side, also
    one of 0 keys in a causal call, raises ValueError. A window of 0 keys to the left is taken for none, and says
    nothing. Where a causal query sees no key, which takes more queries than keys, its lse is 0. `out` and `block_table`
    are parameters that nothing reads.
    """
    if call.layer.softcap > 0:
        raise Unsupported("flash_attn_varlen_func in Triton has no softcap")
    if window[1] >= 0:
        call.unclaimed("flash_attn_varlen_func in Triton has no right side of a window")
    if window[0] == 0:
        call.unclaimed("flash_attn_varlen_func in Triton takes a window of no key to the left for none at all")
    out, lse = call.kernel("mha")(
        call.q[part.tokens],
        keys.k,
        keys.v,
        cu_seqlens_q=part.query_start_loc,
        cu_seqlens_k=keys.cu_seqlens,
        max_seqlen_q=part.max_query_len,
        max_seqlen_k=keys.longest,
        dropout_p=0.0,
        softmax_scale=call.layer.scale,
        causal=causal,
        window_size=window,
        alibi_slopes=_by_sequence(call.layer.alibi_slopes, part),
        return_lse=True,
        sink=sinks,
    )
    return Attended(out, lse, "mha")


def _by_sequence(slopes: Tensor | None, part: Part) -> Tensor | None:
    """[S, Hq]: the kernel takes the stride between sequences of slopes, and fails on slopes [Hq]."""
    return None if slopes is None else slopes.expand(part.seq_lens.shape[0], -1)
