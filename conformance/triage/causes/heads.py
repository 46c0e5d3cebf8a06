"""Which KV head a query head reads, and which queries are whose."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import Question


def _kv_heads(question: Question) -> bool:
    return question.case.kv_heads > 1


def _map(of: Callable[[Question], Tensor]) -> Callable[[Question], Iterable[Variant]]:
    return once(lambda question: replace(question, kv_head=of(question)))


def _as_if_uniform(question: Question) -> Question:
    """The queries of sequence b begin at b * m, as far as there are so many."""
    case, m = question.case, max(question.case.query_lens)
    rows = []
    for b, own in enumerate(case.query_lens):
        first = min(b * m, case.tokens - own)
        rows += range(first, first + own)
    return replace(question, q=question.q[torch.tensor(rows)])


TABLE = (
    Counterfactual(
        name="GQA interleaved",
        says="query heads were interleaved over KV heads (h % Hkv, not h // ratio)",
        applies=lambda question: _kv_heads(question) and question.case.gqa_ratio > 1,
        change=_map(lambda question: torch.arange(question.case.q_heads) % question.case.kv_heads),
    ),
    Counterfactual(
        name="KV head + 1",
        says="each query head read the KV head after its own",
        applies=_kv_heads,
        change=_map(lambda question: (question.heads + 1) % question.case.kv_heads),
    ),
    Counterfactual(
        name="KV head - 1",
        says="each query head read the KV head before its own",
        applies=_kv_heads,
        change=_map(lambda question: (question.heads - 1) % question.case.kv_heads),
    ),
    Counterfactual(
        name="first KV head for all",
        says="every query head read the first KV head",
        applies=_kv_heads,
        change=_map(lambda question: torch.zeros_like(question.heads)),
    ),
    Counterfactual(
        name="ragged taken for uniform",
        says="every sequence had as many queries as the one with most",
        applies=lambda question: len(set(question.case.query_lens)) > 1,
        change=once(_as_if_uniform),
    ),
)
