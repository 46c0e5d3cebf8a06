"""The metadata builder: which sequences decode, extend and prefill, and what is passed on or refused."""

from dataclasses import replace

import pytest

from conformance.case import Case
from conformance.dispatch import MetadataBuilder
from conformance.inputs import make
from tests.harness.dispatched import RAGGED, UNIFORM, built, case_of, scheduled


def counts(query_lens: tuple[int, ...], seq_lens: tuple[int, ...], threshold: int) -> tuple[int, int, int, bool]:
    plain = Case.parse("decode-causal-bf16-b1-q1-h1:1-d8-p4-kv1-contiguous-random")
    case = replace(plain, query_lens=query_lens, seq_lens=seq_lens)
    metadata = MetadataBuilder(decode_threshold=threshold).build(scheduled(case, make(case)))
    return metadata.num_decodes, metadata.num_extends, metadata.num_prefills, metadata.uniform_query_len


@pytest.mark.parametrize(
    ("query_lens", "seq_lens", "threshold", "expected"),
    [
        ((1, 1, 1), (9, 1, 4), 1, (3, 0, 0, True)),
        ((1, 2, 2), (9, 8, 2), 1, (1, 1, 1, False)),
        ((1, 2, 2), (9, 8, 2), 2, (3, 0, 0, False)),
        ((8, 8), (20, 8), 8, (2, 0, 0, True)),  # as many queries as keys, but within the threshold: a decode
        ((8, 9, 9), (20, 20, 9), 8, (1, 1, 1, False)),
        ((0, 4), (5, 9), 4, (2, 0, 0, False)),  # an idle sequence decodes nothing
        ((9, 9), (20, 30), 8, (0, 2, 0, True)),
        ((9, 12), (9, 12), 8, (0, 0, 2, False)),
        ((9, 12), (0, 4), 8, (0, 2, 0, False)),  # more queries than keys, as padding makes them
    ],
)
def test_a_batch_is_told_apart_by_its_lengths(
    query_lens: tuple[int, ...], seq_lens: tuple[int, ...], threshold: int, expected: tuple[int, int, int, bool]
) -> None:
    assert counts(query_lens, seq_lens, threshold) == expected


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
    assert metadata.query_start_loc is inputs.query_start_loc
    assert metadata.seq_lens is inputs.seq_lens
    assert metadata.block_table is inputs.block_table
    assert (metadata.num_actual_tokens, metadata.max_query_len, metadata.max_seq_len) == (15, 5, 30)
    assert (metadata.num_decodes, metadata.num_extends, metadata.num_prefills) == (3, 0, 0)
    assert metadata.uniform_query_len is True


@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED)
def test_a_ragged_draft_is_refused(lengths: str) -> None:
    case = case_of("noncausal", lengths)
    sentence = f"^{case.batch} drafts of {max(case.query_lens)} tokens are not {case.tokens} tokens$"
    with pytest.raises(ValueError, match=sentence):
        MetadataBuilder().build_for_drafting(scheduled(case, make(case), on_host=False))
