"""Extends: new tokens behind a context that the caches hold.

With a window on the left, the keys in reach, the new ones included, are gathered and attended at once. Without one,
the context is gathered and attended chunk by chunk, and the new tokens' own keys come as the layer computed them. All
of the context lies to the left of every query, so that no mask cuts it, causal or not; among the new tokens the mask is
the one that was asked for.
"""

from torch import Tensor

from conformance.dispatch import varlen
from conformance.dispatch.gathering import gathered
from conformance.dispatch.layer import Answered, Call, of
from conformance.dispatch.merging import Partial, merged
from conformance.dispatch.metadata import Extends, KeyRanges
from conformance.status import Unsupported


def attend(call: Call, extends: Extends) -> Answered:
    """Write the extends' rows. Raises Unsupported."""
    return _in_parts(call, extends) if extends.reach is None else _in_reach(call, extends, extends.reach)


def _in_reach(call: Call, extends: Extends, reach: KeyRanges) -> Answered:
    keys = _fetched(call, extends, reach)
    done = varlen.attend(call, extends, keys, causal=call.causal, window=call.layer.window, sinks=call.layer.sinks)
    call.out[extends.tokens] = done.out
    return Answered(f"extend.window.{done.kernel}", done.lse)


def _in_parts(call: Call, extends: Extends) -> Answered:
    """No kernel is told of the sinks, so that each counts once: where the parts are merged."""
    if call.layer.alibi_slopes is not None:
        raise Unsupported("flash_attn_varlen_func counts ALiBi from the last key of a part, not from the query")
    k, v = call.new_keys(extends)
    new = varlen.Keys(k=k, v=v, cu_seqlens=extends.query_start_loc, longest=extends.max_query_len)
    done = varlen.attend(call, extends, new, causal=call.causal, window=call.layer.window, sinks=None)
    parts = [Partial(done.out, done.lse), *(_chunk(call, extends, chunk) for chunk in extends.context)]
    out, lse = merged(parts, call.layer.sinks)
    call.out[extends.tokens] = out.to(call.out.dtype)
    return Answered(f"extend.{done.kernel}", lse)


def _chunk(call: Call, extends: Extends, chunk: KeyRanges) -> Partial:
    done = varlen.attend(call, extends, _fetched(call, extends, chunk), causal=False, window=(-1, -1), sinks=None)
    return Partial(done.out, done.lse, _by_query(chunk.cu_seqlens.diff() > 0, extends))


def _fetched(call: Call, extends: Extends, ranges: KeyRanges) -> varlen.Keys:
    def fetch(cache: Tensor, descale: Tensor | None) -> Tensor:
        return gathered(cache, extends.block_table, ranges, call.q.dtype, of(extends, descale))

    return varlen.Keys(
        k=fetch(call.k_cache, call.layer.k_descale),
        v=fetch(call.v_cache, call.layer.v_descale),
        cu_seqlens=ranges.cu_seqlens,
        longest=ranges.longest,
    )


def _by_query(of_sequence: Tensor, extends: Extends) -> Tensor:
    """What holds of each sequence [S], for each of its queries [T]."""
    queries = extends.tokens.stop - extends.tokens.start
    return of_sequence.repeat_interleave(extends.query_start_loc.diff(), output_size=queries)
