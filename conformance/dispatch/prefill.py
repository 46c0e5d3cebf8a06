"""Prefills: sequences without any key but their queries' own, which need not be fetched from the caches."""

from conformance.dispatch import varlen
from conformance.dispatch.layer import Answered, Call
from conformance.dispatch.metadata import Part


def attend(call: Call, prefills: Part) -> Answered:
    """Write the prefills' rows. Raises Unsupported."""
    k, v = call.new_keys(prefills)
    keys = varlen.Keys(k=k, v=v, cu_seqlens=prefills.query_start_loc, longest=prefills.max_query_len)
    done = varlen.attend(call, prefills, keys, causal=call.causal, window=call.layer.window, sinks=call.layer.sinks)
    call.out[prefills.tokens] = done.out
    return Answered(f"prefill.{done.kernel}", done.lse)
