"""AITER's `mha_v3.flash_attn_varlen_func`, on keys gathered from the pages."""

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import every_key
from conformance.inputs import TORCH_DTYPE, Inputs
from conformance.rounding import RoundingProfile
from conformance.targets.passing_for_a_gpu import passing_for_a_gpus

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("mha_v3", "flash_attn_varlen_func")
prepare = _entry.prepare


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch. It computes an lse, and does not hand it out; of float8 it makes float32."""
    _entry.decline(("ALiBi", case.alibi), ("attention sinks", case.sinks))
    k, v, starts = every_key(case, inputs)
    with passing_for_a_gpus(inputs.q) as q:
        out = _entry(
            q,
            k,
            v,
            inputs.query_start_loc,
            starts,
            max(case.query_lens),
            case.key_bound,
            softmax_scale=inputs.scale,
            causal=case.causal,
            q_descale=inputs.q_descale,
            k_descale=inputs.k_descale if case.q_dtype else None,  # gathered keys are dequantised, for other queries
            v_descale=inputs.v_descale if case.q_dtype else None,
            window_size=case.window,
            softcap=case.softcap,
        )
    profile = RoundingProfile(out=case.dtype, p=case.q_dtype or case.dtype)
    return Answer(out.to(TORCH_DTYPE[case.dtype]) if case.q_dtype else out, path="mha_v3.varlen", profile=profile)
