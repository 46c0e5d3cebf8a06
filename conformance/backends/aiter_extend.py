"""AITER's `extend_attention_fwd`: new tokens' K and V, and the numbers of the rows of a pool that came before them."""

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import as_rows, context, new_tokens
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("extend_attention", "extend_attention_fwd")
prepare = _entry.prepare


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch. Pages are no concern of its: the table becomes a list of rows, and nothing is copied."""
    _entry.decline(
        ("sliding window", max(case.window) >= 0 and not (case.causal and case.window[0] < 0)),
        ("ALiBi", case.alibi),
        ("attention sinks", case.sinks),
        ("float8 queries", bool(case.q_dtype)),
        ("descale", bool(case.cache_dtype)),
    )
    key, value = new_tokens(case, inputs)
    (before, where), (k_rows, v_rows, step) = context(case, inputs), as_rows(inputs.k_cache, inputs.v_cache)
    output = _entry.output(inputs.q)
    _entry(
        inputs.q,
        key,
        value,
        output.rows,
        k_rows,
        v_rows,
        inputs.query_start_loc,
        before.cu_seqlens,
        where.page * step + where.row,
        None,
        case.causal,
        None,
        max(case.query_lens),
        sm_scale=inputs.scale,
        logit_cap=case.softcap,
    )
    return Answer(output.rows, path="extend", profile=RoundingProfile.flash(case.dtype), guarded=(output,))
