"""AITER's `chunked_prefill_paged_decode`: new tokens' K and V beside the pages of what came before them. Causal only.

It wants K as [blocks, Hkv, D / x, page, x] and V as [blocks, Hkv, D, page]; it takes strides, so it gets views.
Single queries go to a kernel of their own, which reads all keys from the pages.
"""

import math

import torch

from conformance.aiter_entries import Entry, sees_only_the_left
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import new_tokens
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("chunked_pa_prefill", "chunked_prefill_paged_decode")
prepare = _entry.prepare

VECTOR = 16
"""Bytes of K that lie together in the layout that the kernels were made for."""


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch."""
    _entry.decline(
        ("mask but the causal one", not sees_only_the_left(case)),
        ("softcap", case.softcap > 0),
        ("attention sinks", case.sinks),
        ("float8 queries", bool(case.q_dtype)),
        ("descale for each head", case.per_head_descales),
        ("descale for each sequence", case.per_sequence_descales),
    )
    _entry.decline_foreign_float8(case)
    key, value = new_tokens(case, inputs, least=2)
    output, one = _entry.output(inputs.q), torch.ones(1, device=inputs.q.device)
    x = math.gcd(VECTOR // inputs.k_cache.itemsize, case.head_dim)
    _entry(
        query=inputs.q,
        key=key,
        value=value,
        output=output.rows,
        kv_cache_dtype="fp8" if case.cache_dtype else "auto",
        key_cache=inputs.k_cache.unflatten(3, (-1, x)).permute(0, 2, 3, 1, 4),
        value_cache=inputs.v_cache.permute(0, 2, 3, 1),
        block_table=inputs.block_table,
        query_start_loc=inputs.query_start_loc,
        seq_lens=inputs.seq_lens,
        max_query_len=max(case.query_lens),
        k_scale=one if inputs.k_descale is None else inputs.k_descale[0, :1],
        v_scale=one if inputs.v_descale is None else inputs.v_descale[0, :1],
        alibi_slopes=inputs.alibi_slopes,
        sliding_window=case.window[0] + 1,  # it counts the query's own key; 0 is no window
        sm_scale=inputs.scale,
    )
    kinds = [name for name, here in (("prefill", max(case.query_lens) > 1), ("decode", 1 in case.query_lens)) if here]
    path = "+".join(map("chunked.{}".format, kinds))
    return Answer(output.rows, path=path, profile=rounding(case), guarded=(output,))


def rounding(case: Case) -> RoundingProfile:
    """Single queries are multiplied with K element by element, in q's dtype, sums included; the others as usual.

    The weights of the former are not rounded. A batch of both is judged by what either may round.
    """
    dtype, singles = case.dtype, set(case.query_lens) & {0, 1}
    if not singles:
        return RoundingProfile.flash(dtype)
    p = "fp32" if max(case.query_lens) == 1 else dtype
    return RoundingProfile(out=dtype, p=p, products=dtype, score_sum=dtype)
