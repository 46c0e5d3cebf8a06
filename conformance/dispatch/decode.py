"""Decodes: a few queries a sequence over its pages.

`unified_attention` is causal only, so nothing non-causal is ever sent there.
"""

import torch
from torch import Tensor

from conformance.dispatch import paged
from conformance.dispatch.layer import Answered, Call, of
from conformance.dispatch.metadata import Decodes
from conformance.status import Unsupported


def attend(call: Call, decodes: Decodes) -> Answered:
    """Write the decodes' rows. Raises Unsupported."""
    if not call.causal:
        return _kvcache(call, decodes)
    return paged.attend(call, decodes) if paged.serves(call, decodes) else _unified(call, decodes)


def _unified(call: Call, decodes: Decodes) -> Answered:
    layer, tokens = call.layer, decodes.tokens
    if call.q.itemsize < call.k_cache.itemsize:
        call.unclaimed("unified_attention takes float8 queries with float8 caches alone")
    if layer.several_descales:
        call.unclaimed("unified_attention reads one descale, which it takes for those of all heads")
    if decodes.max_query_len == 1 and not decodes.uniform_query_len:
        # A bound of 2 would be served rightly. vLLM passes what is the longest, and so is the kernel asked: no server
        # schedules a sequence without a query, so that a refusal costs none, and the defect stays in sight.
        call.unclaimed("unified_attention takes row i for the query of sequence i where none has more than one query")
    output = call.output("unified_attention", decodes)
    left, _ = layer.window  # a causal query sees nothing to its right: a window's right side changes nothing
    call.kernel("unified")(
        q=call.q[tokens],
        k=call.k_cache,
        v=call.v_cache,
        out=output.rows,
        cu_seqlens_q=decodes.query_start_loc,
        max_seqlen_q=decodes.max_query_len,
        seqused_k=decodes.seq_lens,
        max_seqlen_k=decodes.max_seq_len,
        softmax_scale=layer.scale,
        causal=True,
        window_size=(left, 0 if left >= 0 else -1),
        block_table=decodes.block_table,
        softcap=layer.softcap,
        q_descale=of(decodes, layer.q_descale),
        k_descale=of(decodes, layer.k_descale),
        v_descale=of(decodes, layer.v_descale),
        alibi_slopes=layer.alibi_slopes,
        sinks=layer.sinks,
    )
    call.out[tokens] = output.rows
    return Answered("unified", guarded=output)


def _kvcache(call: Call, decodes: Decodes) -> Answered:
    layer, m = call.layer, decodes.max_query_len
    _refuse_what_kvcache_lacks(call)
    q = call.q[decodes.tokens]
    rows = None if decodes.uniform_query_len else _right_aligned_rows(decodes, len(q))
    sequences = decodes.seq_lens.shape[0]
    batched = q.view(sequences, m, *q.shape[1:]) if rows is None else _pad(q, rows, sequences * m).unflatten(0, (-1, m))
    out, lse = call.kernel("kvcache")(
        batched,
        call.k_cache,
        call.v_cache,
        cache_seqlens=decodes.seq_lens,
        softmax_scale=layer.scale,
        causal=False,
        window_size=layer.window,
        softcap=layer.softcap,
        q_descale=of(decodes, layer.q_descale),
        k_descale=of(decodes, layer.k_descale),
        v_descale=of(decodes, layer.v_descale),
        page_table=decodes.block_table,
        return_softmax_lse=True,
    )
    out, lse = out.flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)
    if rows is not None:
        out, lse = out[rows], lse[rows]
    call.out[decodes.tokens] = out
    return Answered("kvcache" if rows is None else "kvcache.padded", lse)


def _refuse_what_kvcache_lacks(call: Call) -> None:
    layer = call.layer
    sentence = "flash_attn_with_kvcache has no {}, and no other kernel is non-causal"
    for name, asked in (("ALiBi", layer.alibi_slopes is not None), ("attention sinks", layer.sinks is not None)):
        if asked:
            raise Unsupported(sentence.format(name))
    if layer.softcap > 0:
        call.unclaimed(sentence.format("softcap"))
    if call.q.itemsize > 1 and (layer.k_descale is not None or layer.v_descale is not None):
        call.unclaimed(sentence.format("descale for 16-bit queries"))
    if call.q.itemsize < call.k_cache.itemsize:
        call.unclaimed(sentence.format("16-bit caches for float8 queries"))


def _right_aligned_rows(decodes: Decodes, tokens: int) -> Tensor:
    """Where each packed query row goes in a batch of `max_query_len` rows a sequence, int64 [T].

    A sequence's queries are its *last* rows, so that the kernel, which places row i of m at key `n - m + i`, places
    them where they belong: windows stay right, and the rows in front, whatever they compute, are dropped. No value is
    read back from the device.
    """
    ends = decodes.query_start_loc[1:].long()
    token = torch.arange(tokens, device=ends.device)
    sequence = torch.searchsorted(ends, token, right=True)
    return (sequence + 1) * decodes.max_query_len - ends[sequence] + token


def _pad(q: Tensor, rows: Tensor, total: int) -> Tensor:
    padded = q.new_zeros(total, *q.shape[1:])
    padded[rows] = q
    return padded
