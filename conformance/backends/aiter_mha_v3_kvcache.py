"""AITER's `mha_v3.flash_attn_with_kvcache` with the mask that the case asks for, causal or not, over the pages.

The dispatch sends it non-causal batches alone; a backend could choose it for causal ones as well.
"""

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.inputs import TORCH_DTYPE, Inputs
from conformance.rounding import RoundingProfile

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True
CAPTURABLE = True

_entry = Entry("mha_v3", "flash_attn_with_kvcache")
prepare = _entry.prepare


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for a batch whose sequences have as many queries each, with its lse."""
    _entry.decline(
        ("batches with queries of several lengths", len(set(case.query_lens)) > 1),
        ("ALiBi", case.alibi),
        ("attention sinks", case.sinks),
    )
    out, lse = _entry(
        inputs.q.unflatten(0, (case.batch, -1)),
        inputs.k_cache,
        inputs.v_cache,
        cache_seqlens=inputs.seq_lens,
        softmax_scale=inputs.scale,
        causal=case.causal,
        window_size=case.window,
        softcap=case.softcap,
        q_descale=inputs.q_descale,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
        page_table=inputs.block_table,
        return_softmax_lse=True,
    )
    small = case.q_dtype or case.dtype
    profile = RoundingProfile(out=case.dtype, p=small, scaled_q=small)
    out = out.to(TORCH_DTYPE[case.dtype]) if case.q_dtype else out
    return Answer(out.flatten(0, 1), lse.transpose(1, 2).flatten(0, 1), "mha_v3.kvcache", profile)
