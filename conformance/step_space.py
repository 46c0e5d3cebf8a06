"""The space of steps that do more than decode: a smaller one beside that of decodes, whose axes have other meanings.

What decodes have by themselves (drafts of every length, contexts at every edge, padding) is covered there.
"""

from collections.abc import Iterator
from functools import cache
from random import Random

from conformance.axes import CACHE, CAUSAL, DTYPE, LAYOUT, Q_ROWS, REGIME, SCALE, SINKS, TAIL_REGIMES
from conformance.case import DECODE, EXTEND, PREFILL, Case
from conformance.realize import Levels, another_scale, random_of
from conformance.space import Axis, Constraint, Space, rule
from conformance.steps import step_of

STEP = Axis("step", ("extend", "prefill", "mixed", "decode+extend", "decode+prefill"))
THRESHOLD = Axis("threshold", ("8", "1", "17"))
NEW = Axis("new tokens", ("20", "18", "63", "64", "65", "128", "129", "200"))
CONTEXT = Axis("context", ("100", "1", "16", "63", "64", "65", "257", "512", "1100"))
CHUNK = Axis("chunk", ("none", "64", "100", "16"))
RATIO = Axis("ratio", ("2", "1", "4", "8", "3", "16"))
KV_HEADS = Axis("KV heads", ("2", "1", "3", "8"))
HEAD_DIM = Axis("head dim", ("64", "128", "32", "80", "96", "192", "256", "512"))
PAGE = Axis("page", ("16", "32", "64", "1", "48", "256"))
WINDOW = Axis("window", ("none", "left", "short", "wide"))
SCORES = Axis("scores", ("none", "alibi"))
DESCALES = Axis("descales", ("tensor", "head"))
EACH = Axis("of each kind", ("1", "2", "3"))

AXES = (STEP, CAUSAL, DTYPE, THRESHOLD, NEW, CONTEXT, CHUNK, RATIO, KV_HEADS, HEAD_DIM, PAGE, LAYOUT, WINDOW, SCORES,
        SINKS, CACHE, DESCALES, EACH, SCALE, Q_ROWS, REGIME)  # fmt: skip

WITH_DECODES = ("mixed", "decode+extend", "decode+prefill")
WITH_EXTENDS = ("extend", "mixed", "decode+extend")
WITHOUT_EXTENDS = ("prefill", "decode+prefill")

REACH = {"left": 63, "short": 5, "wide": 300}
"""Keys to the left of a query that a window reaches: within a tile, within the new tokens, beyond most contexts."""

MOST_WORK = 2**26
"""Multiplications of the product of q and K."""

CONTEXT_WITHOUT_EXTENDS = "100"
"""Of the decodes."""


def _rules() -> Iterator[Constraint]:
    yield rule(
        "a context that is taken in chunks is an extend's, and no window hides it",
        (STEP, WINDOW, CHUNK),
        lambda step, window, chunk: chunk == "none" or (step in WITH_EXTENDS and window == "none"),
    )
    yield rule(
        "a chunk that holds the whole context is none",
        (CONTEXT, CHUNK),
        lambda context, chunk: chunk == "none" or int(chunk) < int(context),
    )
    yield rule(
        "without extends there are the decodes' contexts alone, whose edges the space of decodes has",
        (STEP, CONTEXT),
        lambda _, context: context == CONTEXT_WITHOUT_EXTENDS,
        where={"step": WITHOUT_EXTENDS},
    )
    yield rule("prefills alone read no cache", (STEP, CACHE), lambda _, cache: cache == "none",
               where={"step": ["prefill"]})  # fmt: skip
    yield rule(
        "ALiBi cannot be told to a part of the keys",
        (STEP, WINDOW, SCORES),
        lambda step, window, scores: scores == "none" or step in WITHOUT_EXTENDS or window != "none",
    )
    yield rule(
        "non-causal kernels have no ALiBi",
        (CAUSAL, SCORES),
        lambda _, scores: scores == "none",
        where={"causal": ["noncausal"]},
    )
    for axis in (SINKS, CACHE):
        yield rule(
            "non-causal decodes have no sinks and no smaller cache: the space of decodes lists those refusals",
            (STEP, CAUSAL, axis),
            lambda step, causal, level: level == "none" or causal == "causal" or step not in WITH_DECODES,
        )
    yield rule(
        "descales differ where a smaller cache has several heads, and unified attention, which decodes, reads one",
        (STEP, CACHE, KV_HEADS, DESCALES),
        lambda step, cache, heads, descales: (
            descales == "tensor" or (cache != "none" and heads != "1" and step not in WITH_DECODES)
        ),
    )
    yield rule(
        "the tail of a last page needs a sequence that does not fill it",
        (STEP, NEW, CONTEXT, PAGE, REGIME),
        lambda step, new, context, page, _: (int(new) + int(context) * (step in WITH_EXTENDS)) % int(page) > 0,
        where={"regime": TAIL_REGIMES},
    )
    yield rule(
        "the oracle takes at most 2^26 multiplications for the scores",
        (NEW, CONTEXT, RATIO, KV_HEADS, HEAD_DIM, EACH),
        lambda new, context, ratio, heads, dim, each: int(new) * (int(new) + int(context)) * int(ratio) * int(heads)
        * int(dim) * int(each) <= MOST_WORK,
    )  # fmt: skip


@cache
def space() -> Space:
    """The axes and all constraints; made once."""
    return Space(AXES, _rules())


def case(levels: Levels) -> Case:
    """The case of a legal assignment. What levels leave open is a pure function of them."""
    pick = random_of(levels)
    lens = [pair for kind in _kinds(levels["step"]) for pair in _lens(kind, levels, pick)]
    query_lens, seq_lens = zip(*lens, strict=True)
    kv_heads, head_dim = int(levels["KV heads"]), int(levels["head dim"])
    batch = Case(
        causal=levels["causal"] == "causal",
        dtype=levels["dtype"],
        query_lens=query_lens,
        seq_lens=seq_lens,
        q_heads=kv_heads * int(levels["ratio"]),
        kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=int(levels["page"]),
        layout=levels["layout"],
        regime=levels["regime"],
        window=(REACH.get(levels["window"], -1), -1),
        alibi=levels["scores"] == "alibi",
        sinks=levels["sinks"] == "sinks",
        table_width=2 if levels["regime"] == "poison.table" else 1,
        cache_dtype="" if levels["cache"] == "none" else levels["cache"].removeprefix("cache."),
        per_head_descales=levels["descales"] == "head",
        scale=another_scale(head_dim, pick) if levels["scale"] == "scale" else 0.0,
        fused_q=levels["q rows"] == "q.fused",
    )
    chunk = 0 if levels["chunk"] == "none" else int(levels["chunk"])
    return step_of(batch, int(levels["threshold"]), prefills=[m == n for m, n in lens], chunk=chunk)


def _kinds(step: str) -> tuple[str, ...]:
    return (DECODE, EXTEND, PREFILL) if step == "mixed" else tuple(step.split("+"))


def _lens(kind: str, levels: Levels, pick: Random) -> Iterator[tuple[int, int]]:
    """Queries and keys of each sequence of a kind: the first is what the levels ask for, the others are smaller."""
    new, context, draft = (int(levels[name]) for name in ("new tokens", "context", "threshold"))
    for number in range(int(levels["of each kind"])):
        fewer = number > 0
        m = pick.randint(draft + 1, new) if fewer else new
        n = pick.randint(1, context) if fewer else context
        if kind == DECODE:
            yield draft, n + draft
        else:
            yield m, m + (n if kind == EXTEND else 0)


def levels(case: Case) -> dict[str, frozenset[str]] | None:
    """The levels that a case has, none where it lies beside them; None for a case that only decodes."""
    if case.step == DECODE:
        return None
    kinds = dict.fromkeys(case.kinds)
    first = {kind: case.kinds.index(kind) for kind in kinds}
    led = next(first[kind] for kind in (EXTEND, PREFILL) if kind in kinds)
    context = (
        case.seq_lens[first[EXTEND]] - case.query_lens[first[EXTEND]] if EXTEND in kinds else CONTEXT_WITHOUT_EXTENDS
    )
    windows = {(-1, -1): "none"} | {(reach, -1): name for name, reach in REACH.items()}
    window = windows.get(case.window)
    if window is None or case.softcap or case.q_dtype or case.page_order != "shuffled":
        return {axis.name: frozenset() for axis in AXES}
    words = {
        "step": "mixed" if len(kinds) == 3 else "+".join(kinds),
        "causal": "causal" if case.causal else "noncausal",
        "dtype": case.dtype,
        "threshold": str(case.decode_threshold),
        "new tokens": str(case.query_lens[led]),
        "context": str(context),
        "chunk": str(case.chunk or "none"),
        "ratio": str(case.gqa_ratio),
        "KV heads": str(case.kv_heads),
        "head dim": str(case.head_dim),
        "page": str(case.page_size),
        "layout": case.layout,
        "window": window,
        "scores": "alibi" if case.alibi else "none",
        "sinks": "sinks" if case.sinks else "none",
        "cache": f"cache.{case.cache_dtype}" if case.cache_dtype else "none",
        "descales": "head" if case.per_head_descales else "tensor",
        "of each kind": str(case.batch // len(kinds)),
        "scale": "scale" if case.scale else "none",
        "q rows": "q.fused" if case.fused_q else "dense",
        "regime": case.regime,
    }
    return {axis.name: frozenset({words[axis.name]} & set(axis.levels)) for axis in AXES}
