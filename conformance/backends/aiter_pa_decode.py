"""AITER's `paged_attention_decode`: one query a sequence, over paged caches that it wants as [blocks, Hkv, page, D].

It takes strides, so it gets transposed views of the caches. There is one set of strides for both, K's.
"""

import math

import torch
from torch import Tensor

from conformance.aiter_entries import Entry
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
        ("float8 queries", bool(case.q_dtype)),
        ("descale for each sequence", case.per_sequence_descales),
    )
    _entry.decline_foreign_float8(case)
    output = _entry.output(inputs.q)
    _entry(
        output.rows,
        inputs.q,
        inputs.k_cache.transpose(1, 2),
        inputs.v_cache.transpose(1, 2),
        inputs.seq_lens,
        inputs.block_table,
        inputs.scale,
        case.key_bound,
        _compute_type(case),
        _scales(case, inputs, inputs.k_descale),
        _scales(case, inputs, inputs.v_descale),
        alibi_slopes=inputs.alibi_slopes,
    )
    path = ("pa.v2" if _is_split(case) else "pa.v1") + ".token" * case.per_head_descales
    return Answer(output.rows, path=path, profile=rounding(case, inputs.scale), guarded=(output,))


def rounding(case: Case, scale: float) -> RoundingProfile:
    """With one query head a KV head the kernel multiplies element by element, else with matrix units.

    The former rounds products of q and K, and no weights; the latter rounds weights, and adds them up in their dtype.
    Outputs of splits are stored in q's dtype. q * scale is rounded, which a power of two makes no difference to.
    """
    dtype, is_power_of_two = case.dtype, math.frexp(scale)[0] == 0.5
    scaled_q, split = None if is_power_of_two else dtype, dtype if _is_split(case) else None
    if case.gqa_ratio == 1:
        return RoundingProfile(out=dtype, p="fp32", scaled_q=scaled_q, split=split, products=dtype)
    return RoundingProfile(out=dtype, p=dtype, scaled_q=scaled_q, split=split, weight_sum=dtype)


def _is_split(case: Case) -> bool:
    bound, rows = case.key_bound, case.batch * case.q_heads
    return bound > MOST_KEYS_WHOLE or (bound > PARTITION and rows <= ENOUGH_ROWS)


def _scales(case: Case, inputs: Inputs, descale: Tensor | None) -> Tensor:
    """One number; or, of descales [B, Hkv] that differ from head to head, one for each key of the pool, as a view.

    Those of the first sequence: a page has a scale, whoever reads it.
    """
    if descale is None:
        return torch.ones(1)
    if not case.per_head_descales:
        return descale[0, :1]
    return descale[0, None, :, None].expand(len(inputs.k_cache), -1, case.page_size)


def _compute_type(case: Case) -> object:
    import triton.language as tl  # not before the target is active

    return {"bf16": tl.bfloat16, "fp16": tl.float16}[case.dtype]
