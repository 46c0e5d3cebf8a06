"""Which pages a sequence's keys are taken from: its row of the block table, and what is read of it."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from conformance.layouts import page_stride
from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import Question

MOST_PAGES = 64
"""A page that is left out or read twice is looked for among so many; then among the first and the last."""


def _table(of: Callable[[Question], Tensor]) -> Callable[[Question], Iterable[Variant]]:
    return once(lambda question: _with_table(question, of(question)))


def _with_table(question: Question, table: Tensor) -> Question:
    return replace(question, pages=replace(question.pages, table=table))


def _pages(question: Question) -> int:
    return max(question.case.pages)


def _several_rows(question: Question) -> bool:
    return question.case.batch > 1


def _some_pages(question: Question) -> bool:
    return _pages(question) > 1


def _ascending(question: Question) -> Tensor:
    table = question.pages.table.clone()
    for b, used in enumerate(question.case.pages):
        table[b, :used] = table[b, :used].sort().values
    return table


def _entries(question: Question, by: int) -> Tensor:
    """Entry i is taken for entry i + by; past the end, what the table holds next in memory."""
    flat = question.pages.table.flatten()
    at = torch.arange(flat.numel()).view_as(question.pages.table) + by
    return flat[at.clamp(0, flat.numel() - 1)]


def _without_spare_entries(question: Question) -> Tensor:
    """Rows of the table lie as far apart as the longest sequence needs."""
    flat, width = question.pages.table.flatten(), question.pages.table.shape[1]
    at = torch.arange(question.case.batch)[:, None] * max(1, _pages(question)) + torch.arange(width)
    return flat[at.clamp(max=flat.numel() - 1)]


def _places(question: Question) -> Iterable[int]:
    pages = _pages(question)
    return range(pages) if pages <= MOST_PAGES else (0, 1, 2, pages // 2, pages - 2, pages - 1)


def _read_twice(question: Question) -> Iterable[Variant]:
    """Page i - 1 again instead of page i."""
    for page in _places(question):
        if page:
            table = question.pages.table.clone()
            for b, used in enumerate(question.case.pages):
                at = min(page, used - 1)
                if at > 0:
                    table[b, at] = table[b, at - 1]
            yield (
                f"page {page - 1}, instead of page {page}, or the last two where there are fewer",
                _with_table(question, table),
            )


def _left_out(question: Question) -> Iterable[Variant]:
    """Later pages come one too early, and the last is read twice."""
    for page in _places(question):
        table = question.pages.table.clone()
        for b, used in enumerate(question.case.pages):
            if page < used - 1:
                table[b, page : used - 1] = question.pages.table[b, page + 1 : used]
        yield f"page {page}", _with_table(question, table)


def _swapped(question: Question) -> Iterable[Variant]:
    for page in _places(question):
        if page:
            table = question.pages.table.clone()
            table[:, page - 1], table[:, page] = question.pages.table[:, page], question.pages.table[:, page - 1]
            yield f"pages {page - 1} and {page}", _with_table(question, table)


def _offsets_of_31_bits(question: Question) -> Tensor:
    case = question.case
    stride = page_stride(case.layout, case.page_size, case.kv_heads, case.head_dim)
    return question.pages.table * stride % 2**31 // stride


TABLE = (
    Counterfactual(
        name="table row of the next sequence",
        says="each sequence read the block table's row of the next one",
        applies=_several_rows,
        change=_table(lambda question: question.pages.table.roll(-1, 0)),
    ),
    Counterfactual(
        name="table row of the previous sequence",
        says="each sequence read the block table's row of the one before",
        applies=_several_rows,
        change=_table(lambda question: question.pages.table.roll(1, 0)),
    ),
    Counterfactual(
        name="first table row for all",
        says="every sequence read the first row of the block table",
        applies=_several_rows,
        change=_table(lambda question: question.pages.table[:1].expand_as(question.pages.table)),
    ),
    Counterfactual(
        name="table entries + 1",
        says="the block table were read one entry too far right",
        change=_table(lambda question: _entries(question, 1)),
    ),
    Counterfactual(
        name="table entries - 1",
        says="the block table were read one entry too far left",
        change=_table(lambda question: _entries(question, -1)),
    ),
    Counterfactual(
        name="table rows as long as needed",
        says="rows of the block table were as long as the longest sequence needs, without spare entries",
        applies=lambda question: _several_rows(question) and question.pages.table.shape[1] > max(1, _pages(question)),
        change=_table(_without_spare_entries),
    ),
    Counterfactual(
        name="pages in physical order",
        says="pages were read in the order of their ids, not in that of the block table",
        applies=_some_pages,
        change=_table(_ascending),
    ),
    Counterfactual(
        name="page ids are positions",
        says="page i of a sequence were physical page i",
        change=_table(lambda question: torch.arange(question.pages.table.shape[1]).expand_as(question.pages.table)),
        rank=1,
    ),
    Counterfactual(name="page read twice", says="a page were read twice", applies=_some_pages, change=_read_twice),
    Counterfactual(
        name="page left out",
        says="a page were passed over, so that later ones come one too early",
        applies=_some_pages,
        change=_left_out,
    ),
    Counterfactual(name="pages swapped", says="pages were swapped", applies=_some_pages, change=_swapped, rank=1),
    Counterfactual(
        name="page ids of 16 bits",
        says="page ids were cut to 16 bits",
        applies=lambda question: int(question.pages.table.max()) > 0xFFFF,
        change=_table(lambda question: question.pages.table & 0xFFFF),
    ),
    Counterfactual(
        name="page ids of 16 bits and a sign",
        says="page ids were cut to 16 bits, one of them a sign",
        applies=lambda question: int(question.pages.table.max()) > 0x7FFF,
        change=_table(lambda question: question.pages.table.to(torch.int16).long().clamp(min=0)),
    ),
    Counterfactual(
        name="element offsets of 31 bits",
        says="offsets of elements in the cache wrapped round at 2^31",
        applies=lambda question: question.case.page_order == "huge",
        change=_table(_offsets_of_31_bits),
    ),
)
