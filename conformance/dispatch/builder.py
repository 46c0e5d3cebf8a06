"""From a scheduled batch to attention metadata."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from conformance.dispatch.metadata import (
    AttentionMetadata,
    Decodes,
    Extends,
    KeyRanges,
    Part,
    ScheduledBatch,
    TrimmedTable,
)


@dataclass(frozen=True)
class MetadataBuilder:
    """Builds metadata for one group of layers, whose window reaches `window_left` keys to the left (-1: all)."""

    decode_threshold: int = 1  # longest query that counts as decoding: 1 + the number of speculative tokens
    context_chunk: int = 0  # keys of each extend's context that are gathered at a time; 0: all at once
    window_left: int = -1
    page_size: int = 0  # of the caches, where a table trimmed to the window is wanted; 0: it is not

    def build(self, batch: ScheduledBatch) -> AttentionMetadata:
        """Metadata of a target-model step: decodes, extends and prefills, told apart by the host's lengths.

        A sequence decodes if it has at most `decode_threshold` queries, prefills if its queries are all its keys,
        extends otherwise. Raises ValueError if the host's copies are missing, if the batch is not in that order, and
        if an extend has fewer keys than queries.
        """
        queries, keys = batch.query_lens_on_host, batch.seq_lens_on_host
        if queries is None or keys is None:
            raise ValueError("build needs the host's copies of the query and sequence lengths")
        kinds = [self._kind(m, n) for m, n in zip(queries, keys, strict=True)]
        if kinds != sorted(kinds):
            raise ValueError("a batch must hold its decodes first, then its extends, then its prefills")
        for kind, m, n in zip(kinds, queries, keys, strict=True):
            if kind == _EXTEND and m > n:
                raise ValueError(f"a sequence with {m} new tokens cannot have {n} keys in all")
        extends, prefills = kinds.count(_DECODE), kinds.count(_DECODE) + kinds.count(_EXTEND)
        return AttentionMetadata(
            causal=batch.causal,
            num_actual_tokens=batch.num_actual_tokens,
            window_left=self.window_left,
            decodes=self._decodes(batch, queries[:extends]) if extends else None,
            extends=self._extends(batch, queries, keys, slice(extends, prefills)) if extends < prefills else None,
            prefills=_prefills(batch, queries, prefills) if prefills < len(kinds) else None,
        )

    def build_for_drafting(self, batch: ScheduledBatch) -> AttentionMetadata:
        """Metadata of a draft-model step: every sequence decodes `max_query_len` tokens.

        Nothing is read back from the device, so this may run inside a captured graph and between draft steps. Raises
        ValueError if the token count says that the query lengths differ: drafting has no ragged batches.
        """
        sequences = batch.seq_lens.shape[0]
        if batch.num_actual_tokens != sequences * batch.max_query_len:
            raise ValueError(
                f"{sequences} drafts of {batch.max_query_len} tokens are not {batch.num_actual_tokens} tokens"
            )
        return AttentionMetadata(
            causal=batch.causal,
            num_actual_tokens=batch.num_actual_tokens,
            window_left=self.window_left,
            decodes=self._decodes(batch, (batch.max_query_len,) * sequences),
        )

    def _kind(self, queries: int, keys: int) -> int:
        if queries <= self.decode_threshold:
            return _DECODE
        return _PREFILL if queries == keys else _EXTEND

    def _decodes(self, batch: ScheduledBatch, queries: tuple[int, ...]) -> Decodes:
        """The first sequences of a batch. Their keys are bounded by what the caller says of all: a draft knows no more.

        Kernels choose their route by that bound, so that a server captures a graph for one and replays it for less.
        """
        uniform = min(queries) == max(queries)
        part = _part(batch, slice(0, len(queries)), queries, 0, batch.max_seq_len)
        trims = self.page_size > 0 and self.window_left >= 0 and uniform and queries[0] == 1
        decodes = Decodes(**part, uniform_query_len=uniform)
        return replace(decodes, trimmed=_trimmed(decodes, self.window_left, self.page_size)) if trims else decodes

    def _extends(
        self, batch: ScheduledBatch, queries: tuple[int, ...], keys: tuple[int, ...], sequences: slice
    ) -> Extends:
        first, device = sum(queries[: sequences.start]), batch.seq_lens.device
        new, totals = queries[sequences], keys[sequences]
        part = _part(batch, sequences, new, first, max(totals))
        contexts = [n - m for m, n in zip(new, totals, strict=True)]
        if self.window_left >= 0:
            starts = [max(0, context - self.window_left) for context in contexts]
            reach = KeyRanges.of(starts, [n - start for n, start in zip(totals, starts, strict=True)], device)
            return Extends(**part, reach=reach)
        size = self.context_chunk or max(contexts)
        chunks = [
            KeyRanges.of([start] * len(new), [min(max(0, context - start), size) for context in contexts], device)
            for start in range(0, max(contexts), size)
        ]
        return Extends(**part, context=tuple(chunks))


_DECODE, _EXTEND, _PREFILL = range(3)  # in the order in which a batch holds them


def _trimmed(decodes: Decodes, left: int, page_size: int) -> TrimmedTable:
    """The table of decodes of one query without the pages before the one that holds key `n - 1 - left`.

    From that page's first row to key `n - 1` there are at most `left + page_size` rows. No value is read back.
    """
    table, lens = decodes.block_table, decodes.seq_lens
    first_page = (lens.long() - 1 - left).clamp(min=0) // page_size
    longest = min(decodes.max_seq_len, left + page_size)
    width = min(table.shape[1], -(-longest // page_size))
    columns = first_page[:, None] + torch.arange(width, device=table.device)
    return TrimmedTable(
        # Past a sequence's last page nothing is looked up: any entry will do.
        block_table=table.gather(1, columns.clamp(max=table.shape[1] - 1)),
        seq_lens=(lens - first_page * page_size).to(lens.dtype),
        max_seq_len=longest,
    )


def _prefills(batch: ScheduledBatch, queries: tuple[int, ...], first: int) -> Part:
    new = queries[first:]
    return Part(**_part(batch, slice(first, len(queries)), new, sum(queries[:first]), max(new)))


def _part(
    batch: ScheduledBatch, sequences: slice, queries: Sequence[int], first_token: int, max_seq_len: int
) -> dict[str, Any]:
    """The fields that all parts have."""
    start_loc = batch.query_start_loc[sequences.start : sequences.stop + 1]
    return {
        "sequences": sequences,
        "tokens": slice(first_token, first_token + sum(queries)),
        "query_start_loc": start_loc - start_loc[0] if sequences.start else start_loc,
        "seq_lens": batch.seq_lens[sequences],
        "block_table": batch.block_table[sequences],
        "max_query_len": max(queries),
        "max_seq_len": max_seq_len,
    }
