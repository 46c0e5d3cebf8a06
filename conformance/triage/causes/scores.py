"""What becomes of q K: its scale, softcap, ALiBi, and the descales of smaller caches."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from conformance.case import EXTEND
from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import Question
from conformance.triage.softmax import Tiled

LOG2E = math.log2(math.e)

FACTORS = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 1.005, 1.01, 1.02, 1.05, 1.1, 2.0)
"""A scale that is none of those with a name may be so much off."""


def _scale(of: Callable[[Question], float]) -> Callable[[Question], Iterable[Variant]]:
    return once(lambda question: replace(question, scale=of(question)))


def _other_scales(question: Question) -> Iterable[Variant]:
    for factor in FACTORS:
        yield f"by {factor:g}", replace(question, scale=question.scale * factor)


def _has_softcap(question: Question) -> bool:
    return question.case.softcap > 0


def _has_alibi(question: Question) -> bool:
    return question.slopes is not None


def _has_descales(question: Question) -> bool:
    return question.pages.k_descale is not None


def _slopes(of: Callable[[Question, Tensor], Tensor]) -> Callable[[Question], Iterable[Variant]]:
    def change(question: Question) -> Question:
        return question if question.slopes is None else replace(question, slopes=of(question, question.slopes))

    return once(change)


def _origins(of: Callable[[Question, int, int], int]) -> Callable[[Question], Iterable[Variant]]:
    """ALiBi counts from key `of(question, b, i)` for query i of sequence b."""

    def change(question: Question) -> Question:
        at = [of(question, b, i) for b, m in enumerate(question.case.query_lens) for i in range(m)]
        return replace(question, origins=torch.tensor(at, dtype=torch.float64))

    return once(change)


Descales = tuple[Tensor | None, Tensor | None]


def _descales(of: Callable[[Tensor, Tensor], Descales]) -> Callable[[Question], Iterable[Variant]]:
    def change(question: Question) -> Question:
        pages = question.pages
        if pages.k_descale is None or pages.v_descale is None:
            return question
        k, v = of(pages.k_descale, pages.v_descale)
        return replace(question, pages=replace(pages, k_descale=k, v_descale=v))

    return once(change)


def _sinks(of: Callable[[Question, Tensor], Tensor | None]) -> Callable[[Question], Iterable[Variant]]:
    def change(question: Question) -> Question:
        return question if question.sinks is None else replace(question, sinks=of(question, question.sinks))

    return once(change)


def _has_sinks(question: Question) -> bool:
    return question.sinks is not None


def _once_a_part(question: Question, sinks: Tensor) -> Tensor:
    """Each part of an extend counts the sink for itself."""
    parts = [len(question.case.parts(b)) - 1 for b in range(question.case.batch)]
    return sinks + torch.tensor(parts, dtype=torch.float64).log()[:, None]


TABLE = (
    Counterfactual(name="scale missing", says="scores were not scaled", change=_scale(lambda _: 1.0)),
    Counterfactual(
        name="scale squared", says="scores were scaled twice", change=_scale(lambda question: question.scale**2)
    ),
    Counterfactual(
        name="scale of the caller ignored",
        says="the scale were 1 / sqrt(head_dim), whatever the caller says",
        applies=lambda question: question.case.scale > 0,
        change=_scale(lambda question: question.case.head_dim**-0.5),
    ),
    Counterfactual(
        name="base 2 of natural scores",
        says="exponentials were of base 2, and scores not multiplied by log2(e)",
        change=_scale(lambda question: question.scale / LOG2E),
    ),
    Counterfactual(
        name="base e of scores in base 2",
        says="scores were multiplied by log2(e), and exponentials of base e",
        change=_scale(lambda question: question.scale * LOG2E),
    ),
    Counterfactual(name="scale off", says="the scale were off", change=_other_scales, rank=1),
    Counterfactual(
        name="softcap ignored",
        says="there were no softcap",
        applies=_has_softcap,
        change=once(lambda question: replace(question, cap=None)),
    ),
    Counterfactual(
        name="softcap cuts off",
        says="softcap cut scores off, without a tanh",
        applies=_has_softcap,
        change=once(lambda question: replace(question, cap=lambda scores, cap: scores.clamp(-cap, cap))),
    ),
    Counterfactual(
        name="softcap after the mask",
        says="softcap came after the mask, so that masked keys count with a score of -softcap",
        applies=_has_softcap,
        change=once(lambda question: replace(question, softmax=Tiled(masked=-question.case.softcap))),
    ),
    Counterfactual(
        name="ALiBi ignored",
        says="there were no ALiBi",
        applies=_has_alibi,
        change=once(lambda question: replace(question, slopes=None)),
    ),
    Counterfactual(
        name="ALiBi of the wrong sign",
        says="ALiBi had the other sign",
        applies=_has_alibi,
        change=_slopes(lambda _, slopes: -slopes),
    ),
    Counterfactual(
        name="ALiBi slope of the KV head",
        says="each head had the ALiBi slope of its KV head's number",
        applies=_has_alibi,
        change=_slopes(lambda question, slopes: slopes[question.heads]),
    ),
    Counterfactual(
        name="ALiBi from the first key",
        says="ALiBi counted from the first key, not from each query",
        applies=_has_alibi,
        change=_origins(lambda question, b, i: 0),
    ),
    Counterfactual(
        name="ALiBi from the last key",
        says="ALiBi counted from the last key, not from each query",
        applies=_has_alibi,
        change=_origins(lambda question, b, i: question.lens[b] - 1),
    ),
    Counterfactual(
        name="ALiBi from the first query",
        says="ALiBi counted from the end of the context, not from each query",
        applies=_has_alibi,
        change=_origins(lambda question, b, i: question.lens[b] - question.case.query_lens[b]),
    ),
    Counterfactual(
        name="K descale ignored",
        says="the descale of K were 1",
        applies=_has_descales,
        change=_descales(lambda k, v: (None, v)),
    ),
    Counterfactual(
        name="V descale ignored",
        says="the descale of V were 1",
        applies=_has_descales,
        change=_descales(lambda k, v: (k, None)),
    ),
    Counterfactual(
        name="descales swapped",
        says="the descales of K and V were swapped",
        applies=_has_descales,
        change=_descales(lambda k, v: (v, k)),
    ),
    Counterfactual(
        name="K descale twice",
        says="K were descaled twice",
        applies=_has_descales,
        change=_descales(lambda k, v: (k * k, v)),
    ),
    Counterfactual(
        name="V descale twice",
        says="V were descaled twice",
        applies=_has_descales,
        change=_descales(lambda k, v: (k, v * v)),
    ),
    Counterfactual(
        name="first head's descales for all",
        says="every KV head had the descales of the first",
        applies=lambda question: question.case.per_head_descales,
        change=_descales(lambda k, v: (k[:, :1].expand_as(k), v[:, :1].expand_as(v))),
    ),
    Counterfactual(
        name="first sequence's descales for all",
        says="every sequence had the descales of the first",
        applies=lambda question: question.case.per_sequence_descales,
        change=_descales(lambda k, v: (k[:1].expand_as(k), v[:1].expand_as(v))),
    ),
    Counterfactual(
        name="q descale ignored",
        says="the descale of q were 1",
        applies=lambda question: question.inputs.q_descale is not None,
        change=once(lambda question: replace(question, q=question.inputs.q.double())),
    ),
    Counterfactual(
        name="sinks ignored", says="there were no sinks", applies=_has_sinks, change=_sinks(lambda _, sinks: None)
    ),
    Counterfactual(
        name="sinks counted twice",
        says="each sink counted twice",
        applies=_has_sinks,
        change=_sinks(lambda _, sinks: sinks + math.log(2)),
    ),
    Counterfactual(
        name="sinks once a part",
        says="each sink counted once for every part in which an extend is answered",
        applies=lambda question: _has_sinks(question) and EXTEND in question.case.kinds,
        change=_sinks(_once_a_part),
    ),
    Counterfactual(
        name="sinks in base 2",
        says="sinks were taken for scores in base 2",
        applies=_has_sinks,
        change=_sinks(lambda _, sinks: sinks / LOG2E),
    ),
    Counterfactual(
        name="sinks times log2(e)",
        says="sinks were multiplied by log2(e) once too often",
        applies=_has_sinks,
        change=_sinks(lambda _, sinks: sinks * LOG2E),
    ),
    Counterfactual(
        name="sinks of the neighbours",
        says="each head had the sink of the head before it",
        applies=_has_sinks,
        change=_sinks(lambda _, sinks: sinks.roll(1, -1)),
    ),
)
