"""AITER's `paged_attention_decode`: one query a sequence, over paged caches that it wants as [blocks, Hkv, page, D].

It takes strides, so it gets transposed views of the caches. There is one set of strides for both, K's.
"""

import math

import torch

from conformance.aiter_entries import Entry, unwritten
from conformance.backends import Answer
from conformance.case import Case
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("pa_decode", "paged_attention_decode")
prepare = _entry.prepare

PARTITION, MOST_KEYS_WHOLE, ENOUGH_ROWS = 1024, 8192, 512
"""V2 splits sequences in parts of so many keys, where the bound is above that; with enough rows, above the second."""


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call, in the dtype of q throughout. Its scales are read back to the host, so that it cannot be captured."""
    _entry.decline(
        ("batches of other than one query a sequence", set(case.query_lens) != {1}),
        ("sliding window", case.window[0] >= 0),
        ("softcap", case.softcap > 0),
        ("attention sinks", case.sinks),
    )
    _entry.decline_foreign_float8(case)
    out, one = unwritten(inputs.q), torch.ones(1)
    _entry(
        out,
        inputs.q,
        inputs.k_cache.transpose(1, 2),
        inputs.v_cache.transpose(1, 2),
        inputs.seq_lens,
        inputs.block_table,
        inputs.scale,
        case.key_bound,
        _compute_type(case),
        one if inputs.k_descale is None else inputs.k_descale[0, :1],
        one if inputs.v_descale is None else inputs.v_descale[0, :1],
        alibi_slopes=inputs.alibi_slopes,
    )
    return Answer(out, path="pa.v2" if _is_split(case) else "pa.v1", profile=rounding(case, inputs.scale))


def rounding(case: Case, scale: float) -> RoundingProfile:
    """With one query head a KV head the kernel multiplies element by element, else with matrix units.

    The former rounds products of q and K, and no weights; the latter rounds weights, and adds them up in their dtype.
    q * scale is rounded by both, which changes nothing where the scale is a power of two.
    """
    dtype, exact = case.dtype, math.frexp(scale)[0] == 0.5
    scaled_q = None if exact else dtype
    if case.gqa_ratio == 1:
        return RoundingProfile(out=dtype, p="fp32", scaled_q=scaled_q, products=dtype)
    return RoundingProfile(out=dtype, p=dtype, scaled_q=scaled_q, weight_sum=dtype)


def _is_split(case: Case) -> bool:
    bound, rows = case.key_bound, case.batch * case.q_heads
    return bound > MOST_KEYS_WHOLE or (bound > PARTITION and rows <= ENOUGH_ROWS)


def _compute_type(case: Case) -> object:
    import triton.language as tl  # not before the target is active

    return {"bf16": tl.bfloat16, "fp16": tl.float16}[case.dtype]
