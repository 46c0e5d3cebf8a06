"""From a scheduled batch to attention metadata."""

from dataclasses import dataclass

from conformance.dispatch.metadata import AttentionMetadata, ScheduledBatch


@dataclass(frozen=True)
class MetadataBuilder:
    """Builds metadata for one group of layers.

    `decode_threshold` is the longest query that counts as decoding: 1 + the number of speculative tokens.
    """

    decode_threshold: int = 1

    def build(self, batch: ScheduledBatch) -> AttentionMetadata:
        """Metadata of a target-model step: decodes, extends and prefills, told apart by the host's lengths.

        A sequence decodes if it has at most `decode_threshold` queries, prefills if its queries are all its keys,
        extends otherwise. Raises ValueError if the host's copies are missing or the batch is not in that order.
        """
        if batch.query_lens_on_host is None or batch.seq_lens_on_host is None:
            raise ValueError("build needs the host's copies of the query and sequence lengths")
        kinds = [
            self._kind(queries, keys)
            for queries, keys in zip(batch.query_lens_on_host, batch.seq_lens_on_host, strict=True)
        ]
        if kinds != sorted(kinds):
            raise ValueError("a batch must hold its decodes first, then its extends, then its prefills")
        return self._metadata(
            batch,
            num_decodes=kinds.count(_DECODE),
            num_extends=kinds.count(_EXTEND),
            num_prefills=kinds.count(_PREFILL),
            uniform_query_len=set(batch.query_lens_on_host) == {batch.max_query_len},
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
        return self._metadata(batch, num_decodes=sequences, num_extends=0, num_prefills=0, uniform_query_len=True)

    def _kind(self, queries: int, keys: int) -> int:
        if queries <= self.decode_threshold:
            return _DECODE
        return _PREFILL if queries == keys else _EXTEND

    @staticmethod
    def _metadata(
        batch: ScheduledBatch, *, num_decodes: int, num_extends: int, num_prefills: int, uniform_query_len: bool
    ) -> AttentionMetadata:
        return AttentionMetadata(
            causal=batch.causal,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            block_table=batch.block_table,
            num_actual_tokens=batch.num_actual_tokens,
            max_query_len=batch.max_query_len,
            max_seq_len=batch.max_seq_len,
            num_decodes=num_decodes,
            num_extends=num_extends,
            num_prefills=num_prefills,
            uniform_query_len=uniform_query_len,
        )


_DECODE, _EXTEND, _PREFILL = range(3)  # in the order in which a batch holds them
