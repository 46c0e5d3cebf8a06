"""AITER's `mha.flash_attn_varlen_func`, on keys gathered from the pages."""

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import every_key
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.status import Unsupported

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("mha", "flash_attn_varlen_func")
prepare = _entry.prepare


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch, with its lse [T, Hq]."""
    _entry.decline(("softcap", case.softcap > 0), ("float8 queries", bool(case.q_dtype)))
    if case.alibi and not case.causal:
        raise Unsupported("flash_attn_varlen_func has an ALiBi bias that falls off to both sides of a query")
    k, v, starts = every_key(case, inputs)
    left, right = case.window
    slopes = inputs.alibi_slopes
    out, lse = _entry(
        inputs.q,
        k,
        v,
        inputs.query_start_loc,
        starts,
        max(case.query_lens),
        case.key_bound,
        softmax_scale=inputs.scale,
        causal=case.causal,
        window_size=(left, -1 if case.causal else right),  # a causal query sees nothing to its right
        alibi_slopes=None if slopes is None else slopes.expand(case.batch, -1),  # it takes a row a sequence
        return_lse=True,
        sink=inputs.sinks,
    )
    return Answer(out, lse, "mha.varlen", RoundingProfile.flash(case.dtype))
