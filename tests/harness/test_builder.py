"""The metadata builder: which sequences decode, extend and prefill, and what is passed on or refused."""

from dataclasses import replace
from operator import sub

import pytest
import torch

from conformance.case import Case
from conformance.dispatch import AttentionMetadata, MetadataBuilder
from conformance.inputs import Inputs, make
from tests.harness.dispatched import RAGGED, UNIFORM, built, case_of, scheduled


def step(
    query_lens: tuple[int, ...], seq_lens: tuple[int, ...], builder: MetadataBuilder
) -> tuple[AttentionMetadata, Inputs]:
    plain = Case.parse("decode-causal-bf16-b1-q1-h1:1-d8-p4-kv1-contiguous-random")
    case = replace(plain, query_lens=query_lens, seq_lens=seq_lens)
    inputs = make(case)
    return builder.build(scheduled(case, inputs)), inputs


def counts(query_lens: tuple[int, ...], seq_lens: tuple[int, ...], threshold: int) -> tuple[int, int, int]:
    """Sequences that decode, extend and prefill."""
    metadata, _ = step(query_lens, seq_lens, MetadataBuilder(decode_threshold=threshold))
    parts = [metadata.decodes, metadata.extends, metadata.prefills]
    decodes, extends, prefills = (len(part.seq_lens) if part else 0 for part in parts)
    return decodes, extends, prefills


@pytest.mark.parametrize(
    ("query_lens", "seq_lens", "threshold", "expected"),
    [
        ((1, 1, 1), (9, 1, 4), 1, (3, 0, 0)),
        ((1, 2, 2), (9, 8, 2), 1, (1, 1, 1)),
        ((1, 2, 2), (9, 8, 2), 2, (3, 0, 0)),
        ((8, 8), (20, 8), 8, (2, 0, 0)),  # as many queries as keys, but within the threshold: a decode
        ((8, 9, 9), (20, 20, 9), 8, (1, 1, 1)),
        ((0, 4), (5, 9), 4, (2, 0, 0)),  # an idle sequence decodes nothing
        ((9, 9), (20, 30), 8, (0, 2, 0)),
        ((9, 12), (9, 12), 8, (0, 0, 2)),
        ((8, 8), (0, 4), 8, (2, 0, 0)),  # more queries than keys, as padding makes them
    ],
)
def test_a_batch_is_told_apart_by_its_lengths(
    query_lens: tuple[int, ...], seq_lens: tuple[int, ...], threshold: int, expected: tuple[int, int, int]
) -> None:
    assert counts(query_lens, seq_lens, threshold) == expected


def test_new_tokens_that_are_more_than_the_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^a sequence with 9 new tokens cannot have 4 keys in all$"):
        counts((9,), (4,), threshold=8)


def test_each_part_has_the_rows_and_lengths_of_its_sequences() -> None:
    metadata, inputs = step((2, 1, 9, 5, 7, 6), (8, 3, 20, 9, 7, 6), MetadataBuilder(decode_threshold=2))
    decodes, extends, prefills = metadata.decodes, metadata.extends, metadata.prefills
    assert decodes is not None
    assert extends is not None
    assert prefills is not None
    assert [part.tokens for part in (decodes, extends, prefills)] == [slice(0, 3), slice(3, 17), slice(17, 30)]
    starts = [[0, 2, 3], [0, 9, 14], [0, 7, 13]]
    assert [part.query_start_loc.tolist() for part in (decodes, extends, prefills)] == starts
    assert [part.seq_lens.tolist() for part in (decodes, extends, prefills)] == [[8, 3], [20, 9], [7, 6]]
    assert [part.max_query_len for part in (decodes, extends, prefills)] == [2, 9, 7]
    assert [part.max_seq_len for part in (decodes, extends, prefills)] == [20, 20, 7]
    for part in (decodes, extends, prefills):
        assert torch.equal(part.block_table, inputs.block_table[part.sequences])
        assert part.query_start_loc.dtype == torch.int32
    assert not decodes.uniform_query_len


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (0, [([0, 0, 0], [0, 11, 12, 16])]),
        (5, [([0, 0, 0], [0, 5, 6, 10]), ([5, 5, 5], [0, 5, 5, 5]), ([10, 10, 10], [0, 1, 1, 1])]),
        (11, [([0, 0, 0], [0, 11, 12, 16])]),
        (1000, [([0, 0, 0], [0, 11, 12, 16])]),
    ],
)
def test_contexts_are_cut_into_chunks(chunk: int, expected: list[tuple[list[int], list[int]]]) -> None:
    """Of 11, 1 and 4 keys: who has none left in a chunk has an empty range there."""
    metadata, _ = step((9, 3, 2), (20, 4, 6), MetadataBuilder(context_chunk=chunk))
    assert metadata.extends is not None
    assert metadata.extends.reach is None
    chunks = metadata.extends.context
    assert [(ranges.starts.tolist(), ranges.cu_seqlens.tolist()) for ranges in chunks] == expected
    assert [ranges.total for ranges in chunks] == [starts[-1] for _, starts in expected]
    assert [ranges.longest for ranges in chunks] == [max(map(sub, starts[1:], starts)) for _, starts in expected]


def test_with_a_window_on_the_left_the_keys_in_reach_are_one_range() -> None:
    metadata, _ = step((9, 3, 2), (20, 4, 6), MetadataBuilder(context_chunk=5, window_left=3))
    assert metadata.extends is not None
    assert metadata.extends.context == ()
    assert metadata.extends.reach is not None
    assert metadata.extends.reach.starts.tolist() == [8, 0, 1]
    assert metadata.extends.reach.cu_seqlens.tolist() == [0, 12, 16, 21]
    assert (metadata.extends.reach.total, metadata.extends.reach.longest) == (21, 12)


@pytest.mark.parametrize(
    ("left", "first_pages", "longest"), [(0, [4, 0, 1], 4), (3, [4, 0, 0], 7), (4, [3, 0, 0], 8), (99, [0, 0, 0], 20)]
)
def test_a_table_is_trimmed_to_the_pages_in_the_window(left: int, first_pages: list[int], longest: int) -> None:
    """Of 20, 1 and 5 keys in pages of 4."""
    metadata, inputs = step((1, 1, 1), (20, 1, 5), MetadataBuilder(window_left=left, page_size=4))
    assert metadata.decodes is not None
    trimmed = metadata.decodes.trimmed
    assert trimmed is not None
    lens = [n - 4 * page for n, page in zip((20, 1, 5), first_pages, strict=True)]
    assert trimmed.seq_lens.tolist() == lens
    assert trimmed.seq_lens.dtype == trimmed.block_table.dtype == torch.int32
    assert trimmed.max_seq_len == longest
    for row, table, page, n in zip(trimmed.block_table, inputs.block_table, first_pages, lens, strict=True):
        assert row[: -(-n // 4)].tolist() == table[page : page - (-n // 4)].tolist()


@pytest.mark.parametrize(
    ("query_lens", "builder"),
    [
        ((1, 1), MetadataBuilder(page_size=4)),
        ((1, 1), MetadataBuilder(window_left=3)),
        ((2, 2), MetadataBuilder(decode_threshold=2, window_left=3, page_size=4)),
        ((1, 0), MetadataBuilder(window_left=3, page_size=4)),
    ],
    ids=["no window", "no page size", "two queries", "an idle sequence"],
)
def test_a_table_is_trimmed_for_one_query_and_a_window_alone(
    query_lens: tuple[int, ...], builder: MetadataBuilder
) -> None:
    metadata, _ = step(query_lens, (20, 9), builder)
    assert metadata.decodes is not None
    assert metadata.decodes.trimmed is None


@pytest.mark.parametrize(
    ("query_lens", "seq_lens"),
    [((9, 1), (20, 5)), ((9, 1), (9, 5)), ((9, 9), (9, 20)), ((1, 9, 1), (5, 20, 5))],
    ids=["extend, decode", "prefill, decode", "prefill, extend", "decode, extend, decode"],
)
def test_another_order_is_refused(query_lens: tuple[int, ...], seq_lens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^a batch must hold its decodes first, then its extends, then its prefills$"):
        counts(query_lens, seq_lens, threshold=8)


@pytest.mark.parametrize("missing", ["query_lens_on_host", "seq_lens_on_host"])
def test_build_needs_the_lengths_on_the_host(missing: str) -> None:
    case = case_of("causal", UNIFORM["drafts"])
    batch = replace(scheduled(case, make(case)), **{missing: None})
    with pytest.raises(ValueError, match=r"^build needs the host's copies of the query and sequence lengths$"):
        MetadataBuilder(decode_threshold=8).build(batch)


def test_host_lengths_of_different_counts_are_refused() -> None:
    case = case_of("causal", UNIFORM["drafts"])
    batch = replace(scheduled(case, make(case)), seq_lens_on_host=(30, 5))
    with pytest.raises(ValueError):  # noqa: PT011
        MetadataBuilder(decode_threshold=8).build(batch)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("for_drafting", [True, False])
def test_metadata_passes_on_what_it_was_given(for_drafting: bool, causal: bool) -> None:
    case = case_of("causal" if causal else "noncausal", UNIFORM["drafts"])
    inputs = make(case)
    metadata = built(case, inputs, for_drafting=for_drafting)
    assert metadata.causal is causal
    assert metadata.num_actual_tokens == 15
    assert metadata.extends is None
    assert metadata.prefills is None
    decodes = metadata.decodes
    assert decodes is not None
    for name in ("query_start_loc", "seq_lens", "block_table"):  # the same memory: a replayed graph reads it again
        assert getattr(decodes, name).data_ptr() == getattr(inputs, name).data_ptr()
        assert torch.equal(getattr(decodes, name), getattr(inputs, name))
    assert (decodes.tokens, decodes.max_query_len, decodes.max_seq_len) == (slice(0, 15), 5, 30)
    assert decodes.uniform_query_len is True


@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED)
def test_a_ragged_draft_is_refused(lengths: str) -> None:
    case = case_of("noncausal", lengths)
    sentence = f"^{case.batch} drafts of {max(case.query_lens)} tokens are not {case.tokens} tokens$"
    with pytest.raises(ValueError, match=sentence):
        MetadataBuilder().build_for_drafting(scheduled(case, make(case), on_host=False))
