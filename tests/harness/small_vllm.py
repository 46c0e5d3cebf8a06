"""vLLMs of one backend, as it was and as it is, on an AITER whose kernels are the oracle: made on the spot."""

from __future__ import annotations

from pathlib import Path

from tests.harness.small_aiter import write_tree

BACKENDS = "v1/attention/backends"

PACKAGE = {
    "__init__.py": "",
    "v1/__init__.py": "",
    "v1/attention/__init__.py": "",
    f"{BACKENDS}/__init__.py": "",
    "v1/attention/ops/__init__.py": "",
    "triton_utils/__init__.py": "HAS_TRITON = True\n",
    "platforms/__init__.py": "_current_platform = None\n",
    "platforms/rocm.py": """import torch

class RocmPlatform:
    @classmethod
    def is_pin_memory_available(cls):
        return True

    @classmethod
    def fp8_dtype(cls):
        return torch.float8_e4m3fnuz
""",
    "_custom_ops.py": """import torch

def merge_attn_states(*args):
    torch.ops._C.merge_attn_states(*args)
""",
    "v1/attention/ops/triton_merge_attn_states.py": """import torch

def merge_attn_states(output, prefix_output, prefix_lse, suffix_output, suffix_lse):
    total = torch.logaddexp(prefix_lse, suffix_lse)
    parts = ((prefix_output, prefix_lse), (suffix_output, suffix_lse))
    output.copy_(sum(part.float() * (lse - total).exp().T[..., None] for part, lse in parts))
""",
}

COMMON = """from dataclasses import dataclass, field

import torch

from vllm import platforms

current_platform = platforms._current_platform
_CP_TOKENS_PER_ITER_ROCM = 32 * 1024


class Attention(torch.nn.Module):
    def __init__(self):
        raise AssertionError("asks for the configuration of a server")


@dataclass
class Multiple:
    base: int


def paged(out, q, k_cache, v_cache, scale, block_table, starts, seq_lens, softcap, layer):
    workspace = torch.empty(1)
    torch.ops.aiter.paged_attention_v1(
        out, workspace, q, k_cache, v_cache, scale, block_table, starts, seq_lens, 0, None, "auto", "NHD", softcap,
        layer._k_scale, layer._v_scale, None, 256, 1)
"""

OLDER = """
@dataclass
class CommonAttentionMetadata:
    query_start_loc: torch.Tensor
    query_start_loc_cpu: torch.Tensor
    seq_lens: torch.Tensor
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: torch.Tensor
    slot_mapping: torch.Tensor
    causal: bool = True
    _seq_lens_cpu: torch.Tensor | None = None


@dataclass
class AiterFlashAttentionMetadata:
    common: CommonAttentionMetadata
    num_prefills: int = 0
    num_extends: int = 0


class AiterFlashAttentionMetadataBuilder:
    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        assert kv_cache_spec.block_size == 16
        assert vllm_config.model_config.max_model_len * vllm_config.scheduler_config.max_num_partial_prefills
        pinned = torch.zeros(2, pin_memory=True)

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        assert common_attn_metadata._seq_lens_cpu.is_cpu
        return AiterFlashAttentionMetadata(common_attn_metadata)


class AiterFlashAttentionBackend:
    supported_dtypes = [torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes = ["auto"]
    get_supported_kernel_block_sizes = staticmethod(lambda: [Multiple(16)])
    get_supported_head_sizes = classmethod(lambda cls: [64])
    supports_sink = classmethod(lambda cls: False)
    get_kv_cache_shape = staticmethod(lambda blocks, page, heads, head_dim: (2, blocks, page, heads, head_dim))


class AiterFlashAttentionImpl:
    def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype,
                 logits_soft_cap=None):
        self.scale, self.window = scale, (-1, -1) if sliding_window is None else (sliding_window - 1, 0)

    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output=None):
        from aiter.ops.triton.unified_attention import unified_attention

        k_cache, v_cache = kv_cache.unbind(0)
        of = attn_metadata.common
        unified_attention(
            q=query, k=k_cache, v=v_cache, out=output, cu_seqlens_q=of.query_start_loc, seqused_k=of.seq_lens,
            softmax_scale=self.scale, causal=True, window_size=self.window, block_table=of.block_table_tensor,
            softcap=0.0)
"""

NEWER = """
@dataclass(kw_only=True)
class CommonAttentionMetadata:
    query_start_loc: torch.Tensor
    query_start_loc_cpu: torch.Tensor
    seq_lens: torch.Tensor
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: torch.Tensor
    slot_mapping: torch.Tensor
    causal: bool | torch.Tensor = True
    seq_lens_cpu_upper_bound: torch.Tensor | None = None


@dataclass
class Chunks:
    size: int
    swa_metadata: None = None


@dataclass
class Extends:
    chunk_context_metadata: Chunks


@dataclass
class AiterFlashAttentionMetadata:
    common: CommonAttentionMetadata
    causal: bool
    num_decodes: int
    num_extends: int
    num_prefills: int
    extend_metadata: Extends | None
    drafting: bool = False


class AiterFlashAttentionMetadataBuilder:
    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        (layer,) = (vllm_config.compilation_config.static_forward_context[name] for name in layer_names)
        assert isinstance(layer, Attention) and isinstance(layer.impl, AiterFlashAttentionImpl)
        drafts = vllm_config.speculative_config
        self.threshold = 1 + (drafts.num_speculative_tokens if drafts else 0)

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        of = common_attn_metadata
        lens = of.query_start_loc_cpu.diff()
        decodes = int((lens <= self.threshold).sum())
        prefills = int(((lens > self.threshold) & (lens == of.seq_lens_cpu_upper_bound)).sum())
        extends = of.num_reqs - decodes - prefills
        chunks = Extends(Chunks(_CP_TOKENS_PER_ITER_ROCM // extends)) if extends else None
        return AiterFlashAttentionMetadata(of, of.causal, decodes, extends, prefills, chunks)

    def build_for_drafting(self, common_attn_metadata, draft_index):
        of = common_attn_metadata
        return AiterFlashAttentionMetadata(of, of.causal, of.num_reqs, 0, 0, None, True)


class AiterFlashAttentionBackend:
    supported_dtypes = [torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes = ["auto", "fp8"]
    get_supported_kernel_block_sizes = staticmethod(lambda kv_cache_spec=None: [16, 32])
    get_supported_head_sizes = classmethod(lambda cls: [64])
    supports_sink = classmethod(lambda cls: True)
    supports_non_causal = classmethod(lambda cls: True)


class AiterFlashAttentionImpl:
    def __init__(self, num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, kv_cache_dtype,
                 logits_soft_cap=None, sinks=None):
        self.scale, self.window = scale, (-1, -1) if sliding_window is None else (sliding_window - 1, 0)
        self.head_size, self.sinks, self.softcap = head_size, sinks, logits_soft_cap or 0.0

    def varlen(self, q, k, v, causal, **more):
        from aiter import flash_attn_varlen_func

        starts = [torch.tensor([0, len(rows)], dtype=torch.int32) for rows in (q, k)]
        return flash_attn_varlen_func(
            q=q, k=k, v=v, cu_seqlens_q=starts[0], cu_seqlens_k=starts[1], max_seqlen_q=len(q), max_seqlen_k=len(k),
            min_seqlen_q=1, softmax_scale=self.scale, causal=causal, window_size=self.window, **more)

    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, output_scale=None):
        k_cache, v_cache = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        if kv_cache.dtype == torch.uint8:
            k_cache, v_cache = (cache.view(current_platform.fp8_dtype()) for cache in (k_cache, v_cache))
        of, starts = attn_metadata.common, attn_metadata.common.query_start_loc.tolist()
        assert attn_metadata.drafting == (not attn_metadata.causal and attn_metadata.num_decodes == of.num_reqs)
        for b in range(of.num_reqs):
            rows = slice(starts[b], starts[b + 1])
            if b < attn_metadata.num_decodes:
                self.decode(layer, of, b, query[rows], k_cache, v_cache, attn_metadata.causal, output[rows])
            elif b < attn_metadata.num_decodes + attn_metadata.num_extends:
                self.extend(of, b, query[rows], key[rows], value[rows], k_cache, v_cache, output[rows], attn_metadata)
            else:
                self.varlen(query[rows], key[rows], value[rows], attn_metadata.causal, out=output[rows])

    def decode(self, layer, of, b, q, k_cache, v_cache, causal, out):
        table, seq_lens = of.block_table_tensor[b : b + 1], of.seq_lens[b : b + 1]
        starts = torch.tensor([0, len(q)], dtype=torch.int32)
        if not causal:
            from aiter.ops.triton.attention.mha_v3 import flash_attn_with_kvcache

            out.copy_(flash_attn_with_kvcache(q[None], k_cache, v_cache, seq_lens, self.scale, table)[0])
        elif len(q) == 1 and self.sinks is None:
            paged(out, q, k_cache, v_cache, self.scale, table, starts, seq_lens, self.softcap, layer)
        else:
            from aiter.ops.triton.unified_attention import unified_attention

            unified_attention(
                q=q, k=k_cache, v=v_cache, out=out, cu_seqlens_q=starts, seqused_k=seq_lens,
                softmax_scale=self.scale, causal=True, window_size=self.window, block_table=table,
                softcap=self.softcap, sinks=self.sinks)

    def extend(self, of, b, q, key, value, k_cache, v_cache, out, metadata):
        from vllm import _custom_ops

        suffix, suffix_lse = self.varlen(q, key, value, True, return_lse=True)  # whatever the metadata says
        pages = of.block_table_tensor[b].long()
        context = int(of.seq_lens[b]) - len(q)
        keys, values = (cache[pages].flatten(0, 1)[:context] for cache in (k_cache, v_cache))
        size = metadata.extend_metadata.chunk_context_metadata.size
        for first in range(0, context, size):
            chunk = slice(first, first + size)
            part, lse = self.varlen(q, keys[chunk], values[chunk], False, return_lse=True)
            merged = torch.empty_like(suffix)
            _custom_ops.merge_attn_states(merged, part, lse, suffix, suffix_lse)
            suffix, suffix_lse = merged, torch.logaddexp(lse, suffix_lse)
        out.copy_(suffix)
"""

KERNELS = {
    "aiter/ops/triton/__init__.py": "",
    "aiter/ops/triton/unified_attention.py": """import reference

def unified_attention(*, q, k, v, out, cu_seqlens_q, seqused_k, softmax_scale, causal, window_size, block_table,
                      softcap, sinks=None, max_seqlen_q=0, max_seqlen_k=0, alibi_slopes=None, q_descale=None,
                      k_descale=None, v_descale=None):
    assert causal
    out.copy_(reference.attend(
        q, k, v, block_table, seqused_k, cu_seqlens_q, scale=softmax_scale, causal=causal, window=window_size,
        softcap=softcap, alibi_slopes=alibi_slopes, sinks=sinks, k_descale=k_descale, v_descale=v_descale).out)
""",
    "aiter/ops/triton/attention/mha_v3.py": """import reference
import torch

def flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens, scale, page_table):
    starts = torch.arange(len(q) + 1, dtype=torch.int32) * q.shape[1]
    done = reference.attend(
        q.flatten(0, 1), k_cache, v_cache, page_table, cache_seqlens, starts, scale=scale, causal=False)
    return done.out.view(q.shape)
""",
    "aiter/ops/triton/attention/mha.py": """import reference
import torch

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1), alibi_slopes=None,
                           return_lse=False, out=None, sink=None):
    assert window_size[1] == -1
    table = cu_seqlens_k[:-1, None] + torch.arange(max_seqlen_k, dtype=torch.int32)
    done = reference.attend(
        q, k[:, None], v[:, None], table.clamp(max=len(k) - 1), cu_seqlens_k.diff(), cu_seqlens_q,
        scale=softmax_scale, causal=causal, window=window_size, sinks=sink)
    return done.out.to(q.dtype), done.lse.float()
""",
}
"""AITER's kernels, each as right as it can be: the oracle, its answer rounded once."""


def write_vllm(root: Path, version: str, backend: str) -> Path:
    """An installed vLLM of that version in `root`, a folder that is on Python's path; `backend` is its module."""
    for file, text in (PACKAGE | {f"{BACKENDS}/rocm_aiter_fa.py": backend}).items():
        (root / "vllm" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "vllm" / file).write_text(text)
    about = root / f"vllm-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return root


def write_kernels(root: Path) -> Path:
    """A source tree of AITER with all kernels that vLLM calls."""
    for kernel, body in KERNELS.items():
        write_tree(root, kernel, body)
    return root
