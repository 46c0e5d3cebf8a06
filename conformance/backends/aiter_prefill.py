"""AITER's `prefill_attention.context_attention_fwd`: sequences all of whose tokens are new, without a cache."""

from conformance.aiter_entries import Entry
from conformance.backends import Answer
from conformance.case import Case
from conformance.gathered import new_tokens
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile

TARGETS = ("interpreter", "gpu", "compile")
NEEDS_AITER = True

_entry = Entry("prefill_attention", "context_attention_fwd")
prepare = _entry.prepare


def attend(case: Case, inputs: Inputs) -> Answer:
    """One call for the batch."""
    _entry.decline(
        ("context before the queries", case.query_lens != case.seq_lens),
        ("scale but 1 / sqrt(head dimension)", case.scale > 0),
        ("sliding window", max(case.window) >= 0 and not (case.causal and case.window[0] < 0)),
        ("softcap", case.softcap > 0),
        ("ALiBi", case.alibi),
        ("attention sinks", case.sinks),
        ("float8 queries", bool(case.q_dtype)),
    )
    key, value = new_tokens(case, inputs)
    output = _entry.output(inputs.q)
    _entry(
        inputs.q,
        key,
        value,
        output.rows,
        inputs.query_start_loc,
        inputs.seq_lens,
        max(case.query_lens),
        is_causal=case.causal,
    )
    return Answer(output.rows, path="prefill", profile=RoundingProfile.flash(case.dtype), guarded=(output,))
