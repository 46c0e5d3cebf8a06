"""One step: a layer, a batch as vLLM's scheduler hands it over, and the metadata that vLLM's builder makes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import TORCH_DTYPE, Inputs
from conformance.vllm_backend.calling import call
from conformance.vllm_backend.claims import cache_dtype, sliding_window
from conformance.vllm_backend.platform import PageableMemory

LAYER = "layers.0.attn"
NOT_STORED = -1
"""The slot of a token that vLLM does not store: the caches hold the new tokens already."""


def layer(vllm: Any, case: Case, inputs: Inputs) -> Any:
    """An `Attention` of vLLM's, without the model around it: its `impl`, and the descales of its cache.

    `Attention.__init__` asks for a server's configuration; what a builder and `forward` read of a layer is set here.
    """
    made = vllm.Attention.__new__(vllm.Attention)
    torch.nn.Module.__init__(made)
    slopes = None if inputs.alibi_slopes is None else inputs.alibi_slopes.tolist()
    with inputs.q.device:  # as a model is made: vLLM makes a tensor of the slopes
        made.impl = call(
            vllm.AiterFlashAttentionImpl,
            num_heads=case.q_heads,
            head_size=case.head_dim,
            scale=inputs.scale,
            num_kv_heads=case.kv_heads,
            alibi_slopes=slopes,
            sliding_window=sliding_window(case),
            kv_cache_dtype=cache_dtype(case),
            logits_soft_cap=case.softcap or None,
            sinks=inputs.sinks,
        )
    made.layer_name, made.kv_sharing_target_layer_name, made.kv_cache_update_bypass = LAYER, None, False
    made._k_scale, made._v_scale = _scale(inputs.k_descale, inputs), _scale(inputs.v_descale, inputs)
    return made


def metadata(vllm: Any, case: Case, inputs: Inputs, attention: Any) -> Any:
    """What vLLM's own builder makes of the batch.

    A non-causal batch of decodes, all of one length, is a draft: it is built as one. The keys of context that vLLM
    gathers at a time are a constant of its module, made so that they are `case.chunk` of each extending sequence.
    """
    context = case.chunk or max(case.seq_lens)
    vllm._CP_TOKENS_PER_ITER_ROCM = max(1, context) * max(1, case.kinds.count("extend"))
    drafts = not case.causal and set(case.kinds) == {"decode"} and len(set(case.query_lens)) == 1
    with PageableMemory():
        builder = call(
            vllm.AiterFlashAttentionMetadataBuilder,
            kv_cache_spec=SimpleNamespace(block_size=case.page_size),
            layer_names=[LAYER],
            vllm_config=_config(case, attention),
            device=inputs.q.device,
        )
        batch = _batch(vllm, case, inputs)
        if drafts:
            return call(builder.build_for_drafting, common_attn_metadata=batch, draft_index=0)
        return call(builder.build, common_prefix_len=0, common_attn_metadata=batch)


def _batch(vllm: Any, case: Case, inputs: Inputs) -> Any:
    """A `CommonAttentionMetadata` of vLLM's: on the device, and the copies on the host that the scheduler has."""
    starts, lens = (torch.tensor(numbers, dtype=torch.int32) for numbers in (case.query_starts, case.seq_lens))
    return call(
        vllm.CommonAttentionMetadata,
        query_start_loc=inputs.query_start_loc,
        query_start_loc_cpu=starts,
        seq_lens=inputs.seq_lens,
        seq_lens_cpu_upper_bound=lens,
        _seq_lens_cpu=lens,
        num_reqs=case.batch,
        num_actual_tokens=case.tokens,
        max_query_len=max(case.query_lens),
        max_seq_len=case.key_bound,
        block_table_tensor=inputs.block_table,
        slot_mapping=torch.full((case.tokens,), NOT_STORED, dtype=torch.int64, device=inputs.q.device),
        causal=case.causal,
    )


def _config(case: Case, attention: Any) -> SimpleNamespace:
    """What the builder reads of the configuration of an engine, with one layer in it."""
    drafted = (case.decode_threshold or max(case.query_lens)) - 1
    drafting = SimpleNamespace(num_speculative_tokens=drafted, parallel_drafting=False) if drafted else None
    return SimpleNamespace(
        model_config=SimpleNamespace(
            get_num_attention_heads=lambda _: case.q_heads,
            get_num_kv_heads=lambda _: case.kv_heads,
            get_head_size=lambda: case.head_dim,
            dtype=TORCH_DTYPE[case.dtype],
            max_model_len=case.key_bound,
        ),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        cache_config=SimpleNamespace(cache_dtype=cache_dtype(case)),
        scheduler_config=SimpleNamespace(
            max_num_seqs=case.batch, max_num_batched_tokens=case.tokens, max_num_partial_prefills=1
        ),
        speculative_config=drafting,
        compilation_config=SimpleNamespace(static_forward_context={LAYER: attention}),
    )


def _scale(descale: Tensor | None, inputs: Inputs) -> Tensor:
    """The one scale that vLLM has for a whole cache."""
    return torch.ones((), device=inputs.q.device) if descale is None else descale[0, 0]
