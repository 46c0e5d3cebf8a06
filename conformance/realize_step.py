"""From levels of the space of steps to a case, and back: what `conformance.realize` is for decodes."""

from collections.abc import Iterator
from random import Random

from conformance.axes import KEY_BOUND
from conformance.case import DECODE, EXTEND, PREFILL, Case
from conformance.realize import Levels, another_scale, random_of
from conformance.step_space import AXES, CONTEXT_WITHOUT_EXTENDS, REACH
from conformance.steps import step_of

CAPS = (2.0, 5.0)
"""Softcaps that scores reach, so that a lost one shows."""


def case(levels: Levels) -> Case:
    """The case of a legal assignment. What levels leave open is a pure function of them."""
    pick = random_of(levels)
    lens = [pair for kind in _kinds(levels["step"]) for pair in _lens(kind, levels, pick)]
    query_lens, seq_lens = zip(*lens, strict=True)
    kv_heads, head_dim = int(levels["KV heads"]), int(levels["head dim"])
    cache = "" if levels["cache"] == "none" else levels["cache"].removeprefix("cache.")
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
        window=REACH[levels["window"]],
        softcap=pick.choice(CAPS) if levels["scores"] == "softcap" else 0.0,
        alibi=levels["scores"] == "alibi",
        sinks=levels["sinks"] == "sinks",
        table_width=2 if levels["regime"] == "poison.table" else 1,
        page_order=levels["page order"],
        cache_dtype=cache,
        max_keys=KEY_BOUND if levels["bound"] == "bounded" else 0,
        q_dtype=cache if levels["q dtype"] == "small" else "",
        per_head_descales=levels["descales"] == "head",
        per_sequence_descales=levels["descales"] == "seq",
        scale=another_scale(head_dim, pick) if levels["scale"] == "scale" else 0.0,
        fused_q=levels["q rows"] == "q.fused",
    )
    chunk = 0 if levels["chunk"] == "none" else int(levels["chunk"])
    return step_of(batch, int(levels["threshold"]), prefills=[m == n for m, n in lens], chunk=chunk)


def _kinds(step: str) -> tuple[str, ...]:
    return (DECODE, EXTEND, PREFILL) if step == "mixed" else tuple(step.split("+"))


def _lens(kind: str, levels: Levels, pick: Random) -> Iterator[tuple[int, int]]:
    """Queries and keys of each sequence of a kind: the first is what the levels ask for, the others are smaller.

    Of sequences that share pages the second is as long. Among decodes one more may have no queries, or no keys: that
    is how servers pad a batch, at its end.
    """
    new, context, draft = (int(levels[name]) for name in ("new tokens", "context", "threshold"))
    beside = levels["beside"] if kind == DECODE else "none"
    if beside == "idle":
        yield 0, context + draft
    for number in range(int(levels["of each kind"])):
        fewer = number > (levels["page order"] == "shared")
        m = pick.randint(draft + 1, new) if fewer else new
        n = pick.randint(1, context) if fewer else context
        if kind == DECODE:
            yield draft, n + draft
        else:
            yield m, m + (n if kind == EXTEND else 0)
    if beside == "padded":
        yield draft, 0


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
    window = {reach: name for name, reach in REACH.items()}.get(case.window)
    lens = list(zip(case.query_lens, case.seq_lens, strict=True))
    idle, padded = any(not m for m, _ in lens), any(m and not n for m, n in lens)
    if (
        window is None
        or (case.softcap and case.alibi)
        or case.q_dtype not in ("", case.cache_dtype)
        or (case.per_head_descales and case.per_sequence_descales)
        or (idle and padded)
    ):
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
        "page order": case.page_order,
        "window": window,
        "scores": "softcap" if case.softcap else "alibi" if case.alibi else "none",
        "sinks": "sinks" if case.sinks else "none",
        "cache": f"cache.{case.cache_dtype}" if case.cache_dtype else "none",
        "q dtype": "small" if case.q_dtype else "none",
        "descales": "head" if case.per_head_descales else "seq" if case.per_sequence_descales else "tensor",
        "of each kind": str(case.kinds.count(case.kinds[led])),
        "beside": "idle" if idle else "padded" if padded else "none",
        "scale": "scale" if case.scale else "none",
        "bound": "bounded" if case.max_keys == KEY_BOUND else str(case.max_keys or "none"),
        "q rows": "q.fused" if case.fused_q else "dense",
        "regime": case.regime,
    }
    return {axis.name: frozenset({words[axis.name]} & set(axis.levels)) for axis in AXES}
