"""Where K, V and q lie in memory: strides and offsets that a kernel takes for granted."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from conformance.triage.counterfactuals import Counterfactual, Variant, once
from conformance.triage.question import Question, dequantised

Strides = tuple[int, ...]


def misread(x: Tensor, strides: Strides, *, width: int | None = None, offset: int | None = None) -> Tensor:
    """`x` as it is found by other strides, from another offset, or with a longer last dimension; zeros lie past it."""
    shape, start = (*x.shape[:-1], width or x.shape[-1]), x.storage_offset() if offset is None else offset
    memory = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
    needed = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if needed > len(memory):
        memory = torch.cat([memory, memory.new_zeros(needed - len(memory))])
    return memory.as_strided(shape, strides, start)


def _page_from_token(x: Tensor) -> Strides:
    return (x.shape[1] * x.stride(1), *x.stride()[1:])


def _dense(x: Tensor) -> Strides:
    _, page_size, heads, head_dim = x.shape
    return page_size * heads * head_dim, heads * head_dim, head_dim, 1


def _dense_pages(x: Tensor) -> Strides:
    return (x.stride(0), *_dense(x)[1:])


def _page_dense(x: Tensor) -> Strides:
    return (_dense(x)[0], *x.stride()[1:])


def _head_and_token_swapped(x: Tensor) -> Strides:
    return x.stride(0), x.stride(2), x.stride(1), x.stride(3)


def _caches(of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Question], Iterable[Variant]]:
    def change(question: Question) -> Question:
        k, v = of(question.pages.k_cache, question.pages.v_cache)
        return replace(question, pages=replace(question.pages, k_cache=k, v_cache=v))

    return once(change)


def _by(strides: Callable[[Tensor], Strides]) -> Callable[[Question], Iterable[Variant]]:
    return _caches(lambda k, v: (misread(k, strides(k)), misread(v, strides(v))))


def _padded_head_dim(question: Question) -> Question:
    """Rows of q and of K are as long as the next power of two; what comes next in memory meets in the scores."""
    width = 1 << (question.case.head_dim - 1).bit_length()
    q = question.inputs.q
    wide = misread(q, q.stride(), width=width).double()
    k = question.pages.k_cache
    pages = replace(question.pages, k_cache=misread(k, k.stride(), width=width))
    return replace(question, q=wide, pages=pages)


def _q_dense(question: Question) -> Question:
    case, inputs = question.case, question.inputs
    return replace(question, q=dequantised(case, inputs, misread(inputs.q, inputs.q.contiguous().stride())))


TABLE = (
    Counterfactual(
        name="page stride from the token's",
        says="the stride between pages were block_size * stride(token)",
        change=_by(_page_from_token),
    ),
    Counterfactual(
        name="caches dense",
        says="each cache were dense, with nothing between its pages, tokens and heads",
        change=_by(_dense),
    ),
    Counterfactual(
        name="pages dense inside",
        says="nothing lay between the rows of a page",
        change=_by(_dense_pages),
    ),
    Counterfactual(
        name="page stride of a dense cache",
        says="nothing lay between a page and the next, with strides inside a page as they are",
        change=_by(_page_dense),
        rank=1,
    ),
    Counterfactual(
        name="head and token strides swapped",
        says="the strides of heads and tokens were swapped",
        change=_by(_head_and_token_swapped),
    ),
    Counterfactual(
        name="K strides for V",
        says="V were found by the strides of K",
        change=_caches(lambda k, v: (k, misread(v, k.stride()))),
    ),
    Counterfactual(
        name="V strides for K",
        says="K were found by the strides of V",
        change=_caches(lambda k, v: (misread(k, v.stride()), v)),
    ),
    Counterfactual(
        name="storage offset forgotten",
        says="each cache began where its memory does",
        change=_caches(lambda k, v: (misread(k, k.stride(), offset=0), misread(v, v.stride(), offset=0))),
    ),
    Counterfactual(name="K for V", says="K were read for V", change=_caches(lambda k, v: (k, k))),
    Counterfactual(name="V for K", says="V were read for K", change=_caches(lambda k, v: (v, v))),
    Counterfactual(
        name="K and V swapped",
        says="K and V were swapped",
        change=_caches(lambda k, v: (v, k)),
    ),
    Counterfactual(
        name="head dim padded with what comes next",
        says="rows of q and K were as long as the next power of two, unmasked",
        applies=lambda question: (
            question.case.head_dim & (question.case.head_dim - 1) != 0 and question.inputs.q_descale is None
        ),
        change=once(_padded_head_dim),
    ),
    Counterfactual(
        name="queries dense",
        says="rows of q lay one after the other",
        applies=lambda question: not question.inputs.q.is_contiguous(),
        change=once(_q_dense),
    ),
)
