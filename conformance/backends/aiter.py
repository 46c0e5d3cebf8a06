"""The AITER-backed dispatch, on AITER's kernels."""

from collections.abc import Iterator

import torch

from conformance.aiter_entries import decline_foreign_float8
from conformance.aiter_signatures import refusal
from conformance.aiter_source import (
    AiterNotLoadable,
    AiterSource,
    KernelAbsent,
    attention_modules,
    is_rocm_build,
    load_kernel,
    required,
)
from conformance.backends import Answer
from conformance.case import DECODE, Case
from conformance.dispatch import AttentionLayer, Dispatched, MetadataBuilder, ScheduledBatch, forward
from conformance.dispatch.contracts import CONTRACTS
from conformance.dispatch.layer import Kernel
from conformance.inputs import TORCH_DTYPE, Inputs
from conformance.rounding import RoundingProfile
from conformance.status import Unsupported
from conformance.targets import Target

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True
CAPTURABLE = True

ENTRY_POINTS = {
    "kvcache": (attention_modules("mha_v3"), "flash_attn_with_kvcache"),
    "unified": (attention_modules("unified_attention"), "unified_attention"),
    "mha": (attention_modules("mha"), "flash_attn_varlen_func"),
}
"""Where a Triton kernel lives, and its name."""

BUILT = {
    "ck": (("aiter.ops.mha",), "flash_attn_varlen_func"),
    "paged": (("aiter.ops.attention",), "paged_attention_v1"),
}
"""What only a ROCm build has, CK and HIP kernels, and where they are declared; the package itself offers them."""

NEEDED = ("kvcache", "unified")
"""Without one of these nothing is run: a decode is what the suite is about."""

_kernels: dict[str, Kernel | AiterNotLoadable] = {}
_arch: list[str] = []


def prepare(source: AiterSource | None, target: Target) -> None:
    """Import the kernels. Raises AiterNotFound, and AiterNotLoadable for what decodes need."""
    source = required(source)
    _arch[:] = [target.arch]
    _kernels.clear()
    for name, (modules, function) in ENTRY_POINTS.items():
        try:
            _kernels[name] = load_kernel(source, target, modules, function)
        except AiterNotLoadable as error:
            if name in NEEDED:
                raise
            if not isinstance(error, KernelAbsent):
                _kernels[name] = error
    if is_rocm_build(source, target):
        _kernels.update(_built(source, target))


def _built(source: AiterSource, target: Target) -> Iterator[tuple[str, Kernel | AiterNotLoadable]]:
    """CK's and HIP's kernels: one that changed its parameters is an error where it is needed, not a wrong call."""
    for name, (modules, function) in BUILT.items():
        if why := refusal(source.root, modules, function, CONTRACTS[name]):
            yield name, AiterNotLoadable(f"AITER {source.described} does not take the dispatch's call of {name}: {why}")
        elif name == "paged":
            load_kernel(source, target, ("aiter",), function)  # which registers torch's operator
            yield name, torch.ops.aiter.paged_attention_v1
        else:
            yield name, load_kernel(source, target, ("aiter",), function)


def describe(source: AiterSource) -> dict[str, str]:
    """For a person: which kernels are declared as the dispatch calls them, and why others are not."""
    whys = {
        name: refusal(source.root, modules, function, CONTRACTS[name])
        for name, (modules, function) in (ENTRY_POINTS | BUILT).items()
    }
    bound = ", ".join(name for name, why in whys.items() if not why)
    return {
        "calls bind to": "; ".join(
            [bound or "nothing", *(f"not to {name}: {why}" for name, why in whys.items() if why)]
        )
    }


def kernel(name: str) -> Kernel | None:
    """The kernel of that name, or None where this AITER has none. Raises AiterNotLoadable where it does not import."""
    found = _kernels.get(name)
    if isinstance(found, AiterNotLoadable):
        raise found
    return found


def attend(case: Case, inputs: Inputs) -> Answer:
    """One step as vLLM takes it: build the metadata, then forward."""
    (arch,) = _arch
    decline_foreign_float8(arch, "cache", case.cache_dtype)
    decline_foreign_float8(arch, "query", case.q_dtype)
    # A non-causal uniform batch is a draft: it is built as one, without the host's copies.
    drafts = case.step == DECODE and not case.causal and len(set(case.query_lens)) == 1
    batch = ScheduledBatch(
        query_start_loc=inputs.query_start_loc,
        seq_lens=inputs.seq_lens,
        block_table=inputs.block_table,
        num_actual_tokens=case.tokens,
        max_query_len=max(case.query_lens),
        max_seq_len=case.key_bound,
        causal=case.causal,
        query_lens_on_host=None if drafts else case.query_lens,
        seq_lens_on_host=None if drafts else case.seq_lens,
    )
    builder = MetadataBuilder(
        decode_threshold=case.decode_threshold or max(case.query_lens),
        context_chunk=case.chunk,
        window_left=case.window[0],
        page_size=case.page_size if "paged" in _kernels else 0,
    )
    metadata = builder.build_for_drafting(batch) if drafts else builder.build(batch)
    layer = AttentionLayer(
        scale=inputs.scale,
        window=case.window,
        softcap=case.softcap,
        alibi_slopes=inputs.alibi_slopes,
        sinks=inputs.sinks,
        q_descale=inputs.q_descale,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
        several_descales=case.several_descales,
        out_dtype=TORCH_DTYPE[case.dtype],
    )
    try:
        done = forward(
            layer, metadata, inputs.q, inputs.k_cache, inputs.v_cache, key=inputs.key, value=inputs.value, load=kernel
        )
    except Unsupported as refused:
        if (probe := refused.probe) is None:
            raise
        raise Unsupported(str(refused), lambda: _answer(probe(), case)) from refused
    return _answer(done, case)


def _answer(done: Dispatched, case: Case) -> Answer:
    return Answer(done.out, done.lse, done.path, rounding(done.path, case), done.guarded)


def rounding(path: str, case: Case) -> RoundingProfile:
    """What the kernels of a path round: weights to the dtype of the values they meet, which is that of the queries.

    kvcache rounds q * scale * log2(e) to q's dtype as well, the others do not. Parts of an extend are stored in the
    output's dtype, and merged in float32.
    """
    read, taken = case.q_dtype or case.dtype, path.split("+")
    return RoundingProfile(
        out=case.dtype,
        p=read,
        scaled_q=read if any(part.startswith("kvcache") for part in taken) else None,
        parts=case.dtype if any(part in ("extend.ck", "extend.mha") for part in taken) else None,
    )
