"""What the dispatch knows of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
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
class KeyRanges:
    """Consecutive keys of each of S sequences, to be gathered from its pages and packed: `total` rows in all."""

    starts: Tensor  # position of each sequence's first one, int32 [S]
    cu_seqlens: Tensor  # where each sequence's rows begin, and the total, int32 [S + 1]
    total: int
    longest: int

    @classmethod
    def of(cls, starts: Sequence[int], counts: Sequence[int], device: torch.device) -> "KeyRanges":
        """So many keys of each sequence, from there on, as the host knows them."""

        def int32(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.int32).to(device)

        return cls(
            starts=int32(starts),
            cu_seqlens=int32(tuple(accumulate(counts, initial=0))),
            total=sum(counts),
            longest=max(counts),
        )


@dataclass(frozen=True, kw_only=True)
class TrimmedTable:
    """A batch as if each sequence began with the first page that a window on the left leaves its one query."""

    block_table: Tensor  # int32 [S, W']
    seq_lens: Tensor  # int32 [S]
    max_seq_len: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """S consecutive sequences of a batch that are served alike, with `T` queries."""

    sequences: slice  # of the batch
    tokens: slice  # rows of q
    query_start_loc: Tensor  # from 0, int32 [S + 1]
    seq_lens: Tensor  # int32 [S]
    block_table: Tensor  # int32 [S, W]
    max_query_len: int
    max_seq_len: int


@dataclass(frozen=True, kw_only=True)
class Decodes(Part):
    """Sequences with few queries, the last of their keys."""

    uniform_query_len: bool  # all sequences have max_query_len queries
    trimmed: TrimmedTable | None = None  # for one query a sequence and a window on the left


@dataclass(frozen=True, kw_only=True)
class Extends(Part):
    """Sequences with more queries than a decode has, and keys from before them: their context."""

    context: tuple[KeyRanges, ...] = ()  # in chunks; empty with a window on the left
    reach: KeyRanges | None = None  # with a window on the left: all keys, new ones too, that some query may see


@dataclass(frozen=True, kw_only=True)
class AttentionMetadata:
    """What `forward` chooses by: the parts of a batch, in the order in which their queries are packed."""

    causal: bool
    num_actual_tokens: int
    window_left: int  # of the layers it was built for; -1: unbounded
    decodes: Decodes | None = None
    extends: Extends | None = None
    prefills: Part | None = None  # all keys of a sequence are its queries'
