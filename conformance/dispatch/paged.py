"""`torch.ops.aiter.paged_attention_v1`: one causal query a sequence, on a ROCm build.

Read in AITER's source (`aiter/ops/attention.py`, `csrc/cpp_itfs/pa/`), from v0.1.9.post1 to v0.1.20.post1:

* `cu_query_lens` is read up to entry S; a sequence without a query would overwrite the next one's row.
* Strides of the pages are those of `key_cache`, for both caches; that of the table's rows is its width; q's heads and
  the output are taken to be dense.
* The window is `sliding_window` keys, the query's own included, 0 for none.
* One `k_scale` and `v_scale` for all heads; fp8 is e4m3 alone, and the queries have 16 bits.
* The workspace holds, for each partition of 256 keys, an output and, in float32, a sum and a maximum.
"""

import torch
from torch import Tensor

from conformance.dispatch.layer import Answered, Call, of
from conformance.dispatch.metadata import Decodes

PARTITION = 256
HEAD_DIMS = (64, 128, 256)
PAGE_SIZES = (16, 32)
FP8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz)


def serves(call: Call, decodes: Decodes) -> bool:
    """Is it there, and does it compute this? Else `unified_attention` is asked."""
    layer, cache = call.layer, call.k_cache
    return (
        decodes.max_query_len == 1
        and decodes.uniform_query_len
        and layer.sinks is None
        and (layer.window[0] < 0 or decodes.trimmed is not None)
        and cache.shape[3] in HEAD_DIMS
        and cache.shape[1] in PAGE_SIZES
        and cache.stride() == call.v_cache.stride()
        and call.q.itemsize == 2
        and (cache.dtype == call.q.dtype or (cache.dtype in FP8 and not layer.several_descales))
        and call.load("paged") is not None
    )


def attend(call: Call, decodes: Decodes) -> Answered:
    """Write the decodes' rows, over the pages in the window alone where there is one on the left."""
    layer, tokens, cache = call.layer, decodes.tokens, call.k_cache
    trimmed = decodes.trimmed if layer.window[0] >= 0 else None
    used = trimmed or decodes
    q = _dense_heads(call.q[tokens])
    # A caller's bound may be above what the table holds, and the kernel checks that it is not.
    longest = min(used.max_seq_len, used.block_table.shape[1] * cache.shape[1])
    output = call.output("paged_attention_v1", decodes)
    call.kernel("paged")(
        output.rows,
        _workspace(q, longest),
        q,
        cache,
        call.v_cache,
        layer.scale,
        used.block_table.contiguous(),
        decodes.query_start_loc,
        used.seq_lens,
        longest,
        layer.alibi_slopes,
        "auto" if cache.dtype == q.dtype else "fp8",
        "NHD",
        layer.softcap,
        _for_all_heads(of(decodes, layer.k_descale), q),
        _for_all_heads(of(decodes, layer.v_descale), q),
        None,  # fp8_out_scale
        PARTITION,
        1,  # queries a sequence
        layer.window[0] + 1,
    )
    call.out[tokens] = output.rows
    return Answered("paged.trimmed" if trimmed else "paged", guarded=output)


def _dense_heads(q: Tensor) -> Tensor:
    return q if q.stride()[1:] == (q.shape[2], 1) else q.contiguous()


def _workspace(q: Tensor, longest: int) -> Tensor:
    """uint8: an output in q's dtype and two float32 for every (sequence, head, partition)."""
    sequences, heads, dim = q.shape
    partitions = -(-longest // PARTITION)
    return torch.empty(sequences * heads * partitions * (dim * q.itemsize + 8), dtype=torch.uint8, device=q.device)


def _for_all_heads(descale: Tensor | None, q: Tensor) -> Tensor:
    """float32 [1]: read also where nothing is to be descaled."""
    return torch.ones(1, device=q.device) if descale is None else descale[0, :1]
