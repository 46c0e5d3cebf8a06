"""From levels of the case space to a case, and back.

What levels leave open, such as how many pages a context of whole pages has, varies from case to case and is a pure
function of the levels.
"""

import hashlib
from collections.abc import Callable, Mapping
from random import Random

from conformance import contexts
from conformance.axes import (
    KEY_BOUND,
    LONGEST_DRAFT,
    MOST_BYTES,
    MOST_ENTRIES,
    MOST_WORK,
    OTHERS_KEYS,
    RAGGED,
    fewest_other_keys,
    longest_draft,
    possible_lengths,
    row_bytes,
)
from conformance.case import Case

Levels = Mapping[str, str]

FEW = 7
"""Up to so many sequences each have lengths of their own; larger batches have runs of equal ones, and readable ids."""

RUNS = 4

DRAFTS = (8, 16, LONGEST_DRAFT)
"""Tokens of the longest draft of a ragged batch."""

TIMES_USUAL = (0.5, 2.0)
"""A scale that is not 1 / sqrt(head_dim) is so much of it, rounded to two digits."""

SIDES = (0, 1, 7, 15, 16, 31, 63, 64, 255, 256)
"""Window sides: on both sides of what tiles and pages are."""


def case(levels: Levels) -> Case:
    """The case of a legal assignment, one level for each axis of `conformance.axes.AXES`."""
    pick = random_of(levels)
    batch, page = int(levels["batch"]), int(levels["page"])
    drafts = (LONGEST_DRAFT,) if levels["context"] == "short" else DRAFTS
    query_lens = _query_lens(levels["queries"], batch, pick.choice(drafts), pick)
    kv_heads, head_dim = int(levels["KV heads"]), int(levels["head dim"])
    seq_lens = _seq_lens(levels, query_lens, page, pick)
    return Case(
        causal=levels["causal"] == "causal",
        dtype=levels["dtype"],
        query_lens=query_lens,
        seq_lens=seq_lens,
        q_heads=kv_heads * int(levels["ratio"]),
        kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=page,
        layout=levels["layout"],
        regime=levels["regime"],
        window=_window(levels["window"], max(seq_lens), pick),
        softcap=pick.choice((20.0, 30.0, 50.0)) if levels["scores"] == "softcap" else 0.0,
        alibi=levels["scores"] == "alibi",
        sinks=levels["sinks"] == "sinks",
        table_width=int(levels["table"][:-1]),
        page_order=levels["page order"],
        cache_dtype="" if levels["cache"] == "none" else levels["cache"].removeprefix("cache."),
        max_keys=KEY_BOUND if levels["bound"] == "bounded" else 0,
        scale=another_scale(head_dim, pick) if levels["scale"] == "scale" else 0.0,
        fused_q=levels["q rows"] == "q.fused",
    )


def random_of(levels: Levels) -> Random:
    """What fills in what levels leave open: the same for the same levels."""
    words = " ".join(f"{name}={level}" for name, level in levels.items())
    return Random(int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little"))


def another_scale(head_dim: int, pick: Random) -> float:
    """One that is not 1 / sqrt(head_dim)."""
    return float(f"{pick.choice(TIMES_USUAL) / head_dim**0.5:.2g}")


def _query_lens(queries: str, batch: int, draft: int, pick: Random) -> tuple[int, ...]:
    """Uniform, or ragged with one draft of so many tokens, which is not the last: there servers put their padding."""
    if queries not in RAGGED:
        return (int(queries),) * batch
    if queries == "one draft":
        at = pick.randrange(batch - 1)
        return tuple(draft if b == at else 1 for b in range(batch))
    others = _runs(batch - 1, lambda: pick.randrange(2, draft), pick)
    if queries == "absent":
        others = [0, *others[1:]]
    return (draft, *others)


def _runs(count: int, draw: Callable[[], int], pick: Random) -> list[int]:
    """So many numbers: drawn one by one if they are few, else in runs."""
    if count < FEW:
        return [draw() for _ in range(count)]
    ends = sorted(pick.sample(range(1, count), RUNS - 1))
    return [n for start, end in zip([0, *ends], [*ends, count], strict=True) for n in [draw()] * (end - start)]


def _seq_lens(levels: Levels, query_lens: tuple[int, ...], page: int, pick: Random) -> tuple[int, ...]:
    """One sequence has the context that the levels ask for, sometimes a second; the others have fewer keys."""
    batch, context, shared = len(query_lens), levels["context"], levels["page order"] == "shared"
    padded = levels["padding"] == "padded"
    if context == "empty":
        return (0,) * batch
    fewer_pages = batch > 1 and not padded and levels["table"] == "1x" and levels["regime"] == "poison.table"
    affordable = _affordable_keys(levels)
    some = [n for n in _lengths(levels, fewer_pages=fewer_pages) if n <= affordable]
    longest = pick.choice(some)
    fewest = fewest_other_keys(context, levels["queries"])
    lens = _runs(batch, lambda: pick.randint(fewest, min(longest, max(fewest, OTHERS_KEYS))), pick)
    may_be_longest = [b for b, m in enumerate(query_lens) if m == max(query_lens) and not (padded and b == batch - 1)]
    first = pick.choice(may_be_longest)
    rest = [b for b in range(batch) if b != first]
    lens[first] = longest
    if padded:
        rows = [b for b in rest if query_lens[b]]
        pads = rows[-pick.randint(1, max(1, batch // 3)) :] if batch > FEW else rows[-1:]
        rest = [b for b in rest if b not in pads]
        for b in pads:
            lens[b] = 0
    if shared:
        partner = max(page, fewest)
        lens[rest[0]] = pick.randint(partner, max(partner, min(longest, page + OTHERS_KEYS)))
        lens[rest[0]] = min(lens[rest[0]], longest)
    elif len(rest) > 1 and (again := [n for n in some if n <= min(longest, contexts.THRESHOLD + page)]):
        lens[rest[0]] = pick.choice(again)
    if fewer_pages:  # of the last sequence
        least = max(fewest, page) if shared and len(rest) == 1 else fewest
        most = (-(-longest // page) - 1) * page
        lens[rest[-1]] = pick.randint(least, max(least, min(most, least + OTHERS_KEYS)))
    return tuple(lens)


def _lengths(levels: Levels, *, fewer_pages: bool) -> list[int]:
    return possible_lengths(
        levels["context"],
        levels["queries"],
        levels["page"],
        regime=levels["regime"],
        page_order=levels["page order"],
        fewer_pages=fewer_pages,
        batch=levels["batch"],
    )


def _affordable_keys(levels: Levels) -> int:
    """So many keys the longest sequence may have within the budgets of `conformance.axes`."""
    page, row = int(levels["page"]), row_bytes(levels["layout"], levels["KV heads"], levels["head dim"])
    rows = int(levels["ratio"]) * int(levels["KV heads"]) * longest_draft(levels["queries"])
    pages = min(MOST_BYTES // (page * row), MOST_ENTRIES // (int(levels["table"][:-1]) * int(levels["batch"])))
    return min(MOST_WORK // (rows * int(levels["head dim"])), pages * page)


def _window(window: str, keys: int, pick: Random) -> tuple[int, int]:
    sides = [side for side in SIDES if side < keys]
    if window == "none":
        return -1, -1
    if window == "wide":
        return keys + pick.choice(SIDES), -1
    left, right = pick.choice(sides), pick.choice(sides)
    return {"left": (left, -1), "right": (-1, right), "both": (left, right)}[window]


def levels(case: Case) -> dict[str, frozenset[str]]:
    """The levels that a case has of each axis: none where it lies beside them, several where relations coincide.

    That some are not levels of an axis, such as the 4 of a batch of 4, is for the reader to drop.
    """
    keys = max(case.seq_lens)
    queries = max(m for m, n in zip(case.query_lens, case.seq_lens, strict=True) if n == keys)
    scores = {"softcap": case.softcap > 0, "alibi": case.alibi}
    padded = keys > 0 and any(m and not n for m, n in zip(case.query_lens, case.seq_lens, strict=True))
    return {
        "causal": frozenset({"causal" if case.causal else "noncausal"}),
        "dtype": frozenset({case.dtype}),
        "queries": frozenset({_queries_level(case.query_lens)}),
        "context": contexts.of(keys, queries, case.page_size),
        "ratio": frozenset({str(case.gqa_ratio)}),
        "KV heads": frozenset({str(case.kv_heads)}),
        "head dim": frozenset({str(case.head_dim)}),
        "page": frozenset({str(case.page_size)}),
        "layout": frozenset({case.layout}),
        "page order": frozenset({case.page_order}),
        "table": frozenset({f"{case.table_width}x"}),
        "padding": frozenset({"padded" if padded else "none"}),
        "window": frozenset({_window_level(case.window, keys)}),
        "batch": frozenset({str(case.batch)}),
        "regime": frozenset({case.regime}),
        "scores": frozenset(name for name, has in scores.items() if has) or frozenset({"none"}),
        "sinks": frozenset({"sinks" if case.sinks else "none"}),
        "cache": frozenset({f"cache.{case.cache_dtype}" if case.cache_dtype else "none"}),
        "scale": frozenset({"scale" if case.scale else "none"}),
        "bound": _bound_level(case.key_bound, keys),
        "q rows": frozenset({"q.fused" if case.fused_q else "dense"}),
    }


def _queries_level(lens: tuple[int, ...]) -> str:
    different = set(lens)
    if len(different) == 1:
        return str(lens[0])
    if 0 in different:
        return "absent"
    return "one draft" if 1 in different and lens.count(1) == len(lens) - 1 else "mixed"


def _bound_level(bound: int, keys: int) -> frozenset[str]:
    """None for a bound above the keys that sends no kernel another way."""
    if bound == keys:
        return frozenset({"none"})
    return frozenset({"bounded"} if bound > contexts.THRESHOLD else ())


def _window_level(window: tuple[int, int], keys: int) -> str:
    left, right = window
    if left < 0 and right < 0:
        return "none"
    if all(side < 0 or side >= keys for side in window):
        return "wide"
    if right < 0:
        return "left"
    return "right" if left < 0 else "both"
