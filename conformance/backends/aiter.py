"""The AITER-backed dispatch, on AITER's kernels."""

from collections.abc import Callable
from typing import Any

from conformance.aiter_source import AiterNotFound, AiterSource, load_kernel
from conformance.backends import Answer
from conformance.case import Case
from conformance.dispatch import AttentionLayer, MetadataBuilder, ScheduledBatch, forward
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.status import Unsupported
from conformance.targets import Target
from conformance.targets.target import FP8

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True
CAPTURABLE = True

ENTRY_POINTS = {
    "kvcache": (("aiter.ops.triton.attention.mha_v3", "aiter.ops.triton.mha_v3"), "flash_attn_with_kvcache"),
    "unified": (
        ("aiter.ops.triton.attention.unified_attention", "aiter.ops.triton.unified_attention"),
        "unified_attention",
    ),
}
"""Where a kernel lives, in the layout since 2026-01 and before, and its name."""

_kernels: dict[str, Callable[..., Any]] = {}
_arch: list[str] = []


def prepare(source: AiterSource | None, target: Target) -> None:
    """Import the kernels. Raises AiterNotFound or AiterNotLoadable."""
    if source is None:
        raise AiterNotFound("no AITER is installed: name one with --aiter PATH or --aiter REPOSITORY@REF")
    _arch[:] = [target.arch]
    for name, (modules, function) in ENTRY_POINTS.items():
        _kernels[name] = load_kernel(source, target, modules, function)


def attend(case: Case, inputs: Inputs) -> Answer:
    """One decode step as vLLM takes it: build the metadata, then forward."""
    (arch,) = _arch
    if case.cache_dtype not in ("", FP8.get(arch, case.cache_dtype)):
        raise Unsupported(f"a float8 cache on {arch} is {FP8[arch]}, not {case.cache_dtype}")
    uniform = len(set(case.query_lens)) == 1
    batch = ScheduledBatch(
        query_start_loc=inputs.query_start_loc,
        seq_lens=inputs.seq_lens,
        block_table=inputs.block_table,
        num_actual_tokens=case.tokens,
        max_query_len=max(case.query_lens),
        max_seq_len=case.key_bound,
        causal=case.causal,
        # A non-causal uniform batch is a draft: it is built as one, without the host's copies.
        query_lens_on_host=None if uniform and not case.causal else case.query_lens,
        seq_lens_on_host=None if uniform and not case.causal else case.seq_lens,
    )
    builder = MetadataBuilder(decode_threshold=max(case.query_lens))
    metadata = builder.build_for_drafting(batch) if uniform and not case.causal else builder.build(batch)
    layer = AttentionLayer(
        scale=inputs.scale,
        window=case.window,
        softcap=case.softcap,
        alibi_slopes=inputs.alibi_slopes,
        sinks=inputs.sinks,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
    )
    done = forward(layer, metadata, inputs.q, inputs.k_cache, inputs.v_cache, load=_kernels.__getitem__)
    return Answer(done.out, done.lse, done.path, rounding(done.path, case.dtype))


def rounding(path: str, dtype: str) -> RoundingProfile:
    """What each kernel rounds: kvcache rounds q * scale * log2(e) to q's dtype, unified attention does not."""
    scaled_q = dtype if path.startswith("kvcache") else None
    return RoundingProfile(out=dtype, p=dtype, scaled_q=scaled_q)
