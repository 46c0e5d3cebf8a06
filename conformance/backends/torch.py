"""PyTorch's own attention on gathered pages: the embedded default, for a machine without AITER."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from conformance.case import Case
from conformance.inputs import Inputs
from conformance.status import Unsupported
from reference.visibility import diagonal, visible

TARGETS = ("cpu", "gpu")
NEEDS_AITER = False


def attend(case: Case, inputs: Inputs) -> torch.Tensor:
    """`scaled_dot_product_attention` in the case's dtype, a sequence at a time: [T, Hq, D]."""
    for name, asked in (("softcap", case.softcap > 0), ("ALiBi", case.alibi), ("attention sinks", case.sinks)):
        if asked:
            raise Unsupported(f"scaled_dot_product_attention has no {name}")
    out = torch.full_like(inputs.q, torch.nan)
    for b, (m, n) in enumerate(zip(case.query_lens, case.seq_lens, strict=True)):
        rows = slice(case.query_starts[b], case.query_starts[b] + m)
        if m and n:
            out[rows] = _sequence(case, inputs, b, inputs.q[rows])
        else:
            out[rows] = 0
    return out


def _sequence(case: Case, inputs: Inputs, b: int, q: torch.Tensor) -> torch.Tensor:
    n, device = case.seq_lens[b], q.device
    pages = inputs.block_table[b, : case.pages[b]].long()
    k, v = (cache[pages].flatten(0, 1)[:n].transpose(0, 1)[None] for cache in (inputs.k_cache, inputs.v_cache))
    lens = torch.tensor([n], device=device)
    stand = diagonal(torch.tensor([len(q)], device=device), lens, len(q))
    seen = visible(stand, lens, torch.arange(n, device=device), causal=case.causal, window=case.window)
    out = scaled_dot_product_attention(
        q.transpose(0, 1)[None], k, v, attn_mask=seen[None], scale=inputs.scale, enable_gqa=True
    )
    out = out[0].transpose(0, 1)
    return out.masked_fill(~seen[0].any(-1)[:, None, None], 0)
