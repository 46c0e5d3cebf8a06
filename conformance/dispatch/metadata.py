"""What the dispatch knows of a batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScheduledBatch:
    """A batch as the scheduler hands it over (vLLM's CommonAttentionMetadata): decodes, then extends, then prefills.

    Device tensors are int32: query_start_loc [B + 1], seq_lens [B], block_table [B, W]. The copies on the host are what
    the scheduler knows without asking the device; a drafting step has none that are up to date, and leaves them out.
    """

    query_start_loc: Tensor
    seq_lens: Tensor
    block_table: Tensor
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    causal: bool
    query_lens_on_host: tuple[int, ...] | None = None
    seq_lens_on_host: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionMetadata:
    """What `forward` chooses by. The first `num_decodes` sequences decode, the next extend, the last prefill."""

    causal: bool
    query_start_loc: Tensor
    seq_lens: Tensor
    block_table: Tensor
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    num_decodes: int
    num_extends: int
    num_prefills: int
    uniform_query_len: bool  # all sequences have max_query_len queries
