"""AITER's `mha_v3.flash_attn_varlen_func`, on keys gathered from the pages."""

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import every_key
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.targets.passing_for_a_gpu import passing_for_a_gpus

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("mha_v3", "flash_attn_varlen_func")
prepare = _entry.prepare


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch. It computes an lse, and does not hand it out."""
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
            window_size=case.window,
            softcap=case.softcap,
        )
    return Answer(out, path="mha_v3.varlen", profile=RoundingProfile.flash(case.dtype))
