"""PyTorch's own attention on gathered pages: the embedded default, for a machine without AITER."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from conformance.case import Case
from conformance.inputs import Inputs, queries
from conformance.status import Unsupported
from reference.visibility import diagonal, visible

TARGETS = ("cpu", "gpu")
NEEDS_AITER = False


def attend(case: Case, inputs: Inputs) -> torch.Tensor:
    """`scaled_dot_product_attention` in the case's dtype, a sequence at a time: [T, Hq, D]."""
    for name, asked in (("softcap", case.softcap > 0), ("ALiBi", case.alibi), ("attention sinks", case.sinks)):
        if asked:
            raise Unsupported(f"scaled_dot_product_attention has no {name}")
    q = queries(case, inputs)
    out = torch.full_like(q, torch.nan)
    for b, (m, n) in enumerate(zip(case.query_lens, case.seq_lens, strict=True)):
        rows = slice(case.query_starts[b], case.query_starts[b] + m)
        if m and n:
            out[rows] = _sequence(case, inputs, b, q[rows])
        else:
            out[rows] = 0
    return out


def _sequence(case: Case, inputs: Inputs, b: int, q: torch.Tensor) -> torch.Tensor:
    n, device = case.seq_lens[b], q.device
    pages = inputs.block_table[b, : case.pages[b]].long()
    k = _stored(inputs.k_cache[pages], inputs.k_descale, b, q.dtype)
    v = _stored(inputs.v_cache[pages], inputs.v_descale, b, q.dtype)
    lens = torch.tensor([n], device=device)
    stand = diagonal(torch.tensor([len(q)], device=device), lens, len(q))
    seen = visible(stand, lens, torch.arange(n, device=device), causal=case.causal, window=case.window)
    out = scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k[None, :, :n],
        v[None, :, :n],
        attn_mask=seen[None],
        scale=inputs.scale,
        enable_gqa=True,
    )
    out = out[0].transpose(0, 1)
    return out.masked_fill(~seen[0].any(-1)[:, None, None], 0)


def _stored(pages: torch.Tensor, descale: torch.Tensor | None, b: int, dtype: torch.dtype) -> torch.Tensor:
    """Keys or values of sequence `b` [P, page_size, Hkv, D] exact in `dtype`: [Hkv, P * page_size, D]."""
    rows = pages.flatten(0, 1).transpose(0, 1)
    return rows if descale is None else (rows.float() * descale[b][:, None, None]).to(dtype)
