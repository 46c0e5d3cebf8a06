"""Which keys are read at all: lengths, first and last pages, tiles and splits that are missing or come twice."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import Interval, Question

GRAIN = 16
"""Keys go missing from multiples of so many on: the smallest tile, and the usual page."""

MOST_CUTS = 160
"""So many places are tried at most; a longer sequence is tried at a coarser grain."""


def _read(of: Callable[[Question, int, int], Interval]) -> Callable[[Question], Iterable[Variant]]:
    """Other keys are read than those `0 <= j < n` of sequence b; where queries stand stays as it is."""

    def change(question: Question) -> Question:
        return replace(question, spans=tuple(of(question, b, n) for b, n in enumerate(question.lens)))

    return once(change)


def _lens(of: Callable[[Question, int, int], int]) -> Callable[[Question], Iterable[Variant]]:
    """Another length, by which queries stand, too."""

    def change(question: Question) -> Question:
        return replace(question, lens=tuple(max(0, of(question, b, n)) for b, n in enumerate(question.lens)))

    return once(change)


def _cuts(question: Question) -> list[int]:
    """Where a run of keys may begin or end: multiples of the grain, and of the page."""
    longest = max(question.lens)
    grain = max(GRAIN, -(-longest // MOST_CUTS // GRAIN) * GRAIN)
    page = question.case.page_size
    return sorted({*range(grain, longest, grain), *(range(page, longest, page) if page >= grain else ())})


def _missing_at_the_end(question: Question) -> Iterable[Variant]:
    for cut in _cuts(question):
        yield f"from key {cut} on", replace(question, spans=tuple((0, min(n, cut)) for n in question.lens))


def _missing_tile_at_the_end(question: Question) -> Iterable[Variant]:
    """Counted from the end: the last keys, where nothing is left over of a tile."""
    for size in (16, 32, 64, 128):
        ends = tuple((0, n - size if n and n % size == 0 else n) for n in question.lens)
        yield f"the last {size}, where {size} divides the length", replace(question, spans=ends)


def _missing_splits(question: Question, *, last: bool) -> Iterable[Variant]:
    """A split is a share of the keys, in whole tiles."""
    tried = set()
    for tile in (16, 32, 64, 128):
        for splits in (2, 3, 4, 5, 6, 8, 16, 32):
            ends = []
            for n in question.lens:
                size = max(1, -(-n // (tile * splits))) * tile
                whole = (-(-n // size) - 1) * size if n > size else 0
                ends.append(((0, whole) if last else (size, n)) if whole else (0, n))
            if tuple(ends) not in tried:
                tried.add(tuple(ends))
                yield f"of {splits} in tiles of {tile} keys", replace(question, spans=tuple(ends))


def _missing_at_the_start(question: Question) -> Iterable[Variant]:
    for cut in _cuts(question):
        yield f"up to key {cut - 1}", replace(question, spans=tuple((min(n, cut), n) for n in question.lens))


def _counted(question: Question, first: int, end: int, times: float) -> Question:
    counts = torch.ones(question.case.batch, max(1, *question.lens), dtype=torch.float64)
    counts[:, first:end] = times
    return replace(question, counts=counts)


def _page_missing(question: Question, times: float) -> Iterable[Variant]:
    size = question.case.page_size
    pages = -(-max(question.lens) // size)
    for page in range(pages) if pages <= MOST_CUTS else (0, 1, pages - 2, pages - 1):
        yield f"page {page}", _counted(question, page * size, (page + 1) * size, times)


def _edges(question: Question) -> Iterable[tuple[str, list[int]]]:
    """Keys at the edge of one split and the next: for each geometry the first edge of every sequence."""
    for tile in (16, 32, 64, 128):
        for splits in (2, 3, 4, 5, 8, 16):
            sizes = [max(1, -(-n // (tile * splits))) * tile for n in question.lens]
            yield f"the first of {splits} splits, in tiles of {tile} keys", sizes


def _edge(question: Question, before: int, times: float) -> Iterable[Variant]:
    """The first key after the first split, or, with `before`, the last one in it."""
    done = set()
    for words, sizes in _edges(question):
        if tuple(sizes) in done:
            continue
        done.add(tuple(sizes))
        counts = torch.ones(question.case.batch, max(1, *question.lens), dtype=torch.float64)
        for b, (size, n) in enumerate(zip(sizes, question.lens, strict=True)):
            if size < n:
                counts[b, size - before] = times
        place = ", ".join(str(size - before) for size, n in zip(sizes, question.lens, strict=True) if size < n)
        yield f"key {place}: at the end of {words}", replace(question, counts=counts)


def _ends_in_reach(question: Question, b: int, keys: int) -> Interval:
    """Keys up to the end of a sequence's own pages, at most."""
    size = question.case.page_size
    return 0, min(max(keys, 0), -(-question.lens[b] // size) * size)


def _partial(question: Question) -> bool:
    return any(n % question.case.page_size for n in question.lens)


def _several(question: Question) -> bool:
    return len(set(question.lens)) > 1


TABLE = (
    Counterfactual(
        name="length - 1",
        says="each sequence were one key shorter (its last key is not read)",
        change=_read(lambda question, b, n: (0, max(0, n - 1))),
    ),
    Counterfactual(
        name="length + 1",
        says="each sequence were one key longer (a stale row after its last key is read)",
        applies=_partial,
        change=_read(lambda question, b, n: _ends_in_reach(question, b, n + 1)),
    ),
    Counterfactual(
        name="length rounded up to the page",
        says="stale rows after the last key counted, up to the end of the last page",
        applies=_partial,
        change=_read(lambda question, b, n: _ends_in_reach(question, b, n + question.case.page_size)),
    ),
    Counterfactual(
        name="stale rows times 0",
        says="stale rows after the last key were multiplied by a weight of 0, which does not help against NaN",
        applies=_partial,
        change=once(lambda question: replace(question, loads_tail=True)),
        rank=-1,
    ),
    Counterfactual(
        name="length without the draft",
        says="the draft came after the length, which has it already",
        change=_lens(lambda question, b, n: n + question.case.query_lens[b]),
    ),
    Counterfactual(
        name="length less the draft",
        says="the length were that before the draft",
        change=_lens(lambda question, b, n: n - question.case.query_lens[b]),
    ),
    Counterfactual(
        name="keys of the first query",
        says="only the keys that the first query of the draft sees were read",
        applies=lambda question: max(question.case.query_lens) > 1,
        change=_read(lambda question, b, n: (0, max(0, n - max(question.case.query_lens) + 1))),
    ),
    Counterfactual(
        name="length of the neighbour",
        says="each sequence had the length of the one before it",
        applies=_several,
        change=_lens(lambda question, b, n: question.lens[b - 1]),
    ),
    Counterfactual(
        name="length of the longest",
        says="every sequence were as long as the longest",
        applies=_several,
        change=_lens(lambda question, b, n: max(question.lens)),
    ),
    Counterfactual(
        name="length of the first",
        says="every sequence were as long as the first",
        applies=_several,
        change=_lens(lambda question, b, n: question.lens[0]),
        rank=1,
    ),
    Counterfactual(
        name="length of the table",
        says="every sequence were as long as its row of the block table has room for",
        change=_lens(lambda question, b, n: question.pages.room),
    ),
    Counterfactual(
        name="length of the bound",
        says="every sequence were as long as the bound that the caller passes (max_seqlen_k)",
        applies=lambda question: question.case.max_keys > 0,
        change=_lens(lambda question, b, n: question.case.max_keys),
    ),
    Counterfactual(
        name="first key missing",
        says="the first key of each sequence were not read",
        change=_read(lambda question, b, n: (min(1, n), n)),
    ),
    Counterfactual(
        name="last partial page missing",
        says="a last page that is not full were not read",
        applies=_partial,
        change=_read(lambda question, b, n: (0, n // question.case.page_size * question.case.page_size)),
    ),
    Counterfactual(
        name="first page missing",
        says="the first page of each sequence were not read",
        change=_read(lambda question, b, n: (min(question.case.page_size, n), n)),
    ),
    Counterfactual(name="last keys missing", says="keys were not read", change=_missing_at_the_end, rank=1),
    Counterfactual(name="last tile missing", says="the last keys were not read", change=_missing_tile_at_the_end),
    Counterfactual(
        name="last split missing",
        says="the last split of the keys were not read",
        change=lambda question: _missing_splits(question, last=True),
    ),
    Counterfactual(
        name="first split missing",
        says="the first split of the keys were not read",
        change=lambda question: _missing_splits(question, last=False),
    ),
    Counterfactual(name="first keys missing", says="keys were not read", change=_missing_at_the_start, rank=2),
    Counterfactual(
        name="page missing",
        says="one page of each sequence were not read",
        change=lambda question: _page_missing(question, 0.0),
        rank=1,
    ),
    Counterfactual(
        name="page counted twice",
        says="one page of each sequence counted twice",
        change=lambda question: _page_missing(question, 2.0),
        rank=1,
    ),
    Counterfactual(
        name="first key of a split missing",
        says="a key were not read",
        change=lambda question: _edge(question, 0, 0.0),
    ),
    Counterfactual(
        name="last key of a split missing",
        says="a key were not read",
        change=lambda question: _edge(question, 1, 0.0),
    ),
    Counterfactual(
        name="last key of a split twice",
        says="a key counted twice",
        change=lambda question: _edge(question, 1, 2.0),
    ),
    Counterfactual(
        name="first key of a split twice",
        says="a key counted twice",
        change=lambda question: _edge(question, 0, 2.0),
    ),
)
