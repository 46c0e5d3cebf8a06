"""A batch, part by part: decodes, then extends, then prefills, each by AITER's kernel for it, as vLLM does.

| part of a batch                      | kernel                       | path                       |
| ------------------------------------ | ---------------------------- | -------------------------- |
| causal decode, one token, ROCm build | `paged_attention_v1` (HIP)   | `paged`, `paged.trimmed`   |
| causal decode, else                  | `unified_attention`          | `unified`                  |
| non-causal decode, uniform           | `flash_attn_with_kvcache`    | `kvcache`                  |
| non-causal decode, ragged            | the same, on padded rows     | `kvcache.padded`           |
| extend                               | `flash_attn_varlen_func` (V) | `extend.V`: parts, merged  |
| extend, with a window on the left    | the same, once               | `extend.window.V`          |
| prefill                              | the same, once               | `prefill.V`                |

V is `ck` on a ROCm build, else `mha`, its relative in Triton. `causal` is passed on to every kernel that has it, and
what has not is never sent the other mask. What no kernel computes is refused.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from conformance.dispatch import decode, extend, prefill
from conformance.dispatch.layer import Answered, AttentionLayer, Call, Dispatched, Kernel
from conformance.dispatch.metadata import AttentionMetadata


def supports_non_causal() -> bool:
    """Non-causal batches are served: decodes by `flash_attn_with_kvcache`, the rest by `flash_attn_varlen_func`."""
    return True


def forward(
    layer: AttentionLayer,
    metadata: AttentionMetadata,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    key: Tensor | None = None,
    value: Tensor | None = None,
    load: Callable[[str], Kernel | None],
) -> Dispatched:
    """Attention of `q` [T, Hq, D] over paged caches [num_blocks, page_size, Hkv, D].

    `key` and `value` [T, Hkv, D] are the new tokens', which the caches hold already; decodes do without. `load` gives
    a kernel by name, or None where this AITER has none. Raises Unsupported where no kernel computes what is asked, and
    ValueError where the metadata was built for another window.
    """
    if layer.window[0] != metadata.window_left:
        raise ValueError(f"metadata for a window {metadata.window_left} keys to the left, a layer with {layer.window}")

    def served(*, probing: bool) -> Dispatched:
        call = Call(
            layer=layer,
            causal=metadata.causal,
            q=q,
            k_cache=k_cache,
            v_cache=v_cache,
            key=key,
            value=value,
            # Handed out as NaN, so that an element that no kernel writes cannot pass for a result.
            out=torch.full_like(q, torch.nan, dtype=layer.out_dtype or q.dtype),
            load=load,
            probe=None if probing else partial(served, probing=True),
        )
        return _joined(call.out, list(_answers(call, metadata)))

    return served(probing=False)


def _answers(call: Call, metadata: AttentionMetadata) -> Iterator[Answered]:
    if metadata.decodes:
        yield decode.attend(call, metadata.decodes)
    if metadata.extends:
        yield extend.attend(call, metadata.extends)
    if metadata.prefills:
        yield prefill.attend(call, metadata.prefills)


def _joined(out: Tensor, answers: list[Answered]) -> Dispatched:
    parts = [answer.lse for answer in answers if answer.lse is not None]
    lse = torch.cat(parts) if len(parts) == len(answers) else None
    guarded = tuple(answer.guarded for answer in answers if answer.guarded is not None)
    return Dispatched(out, lse, "+".join(answer.path for answer in answers), guarded)
