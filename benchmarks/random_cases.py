"""Legal cases drawn at random: every field, most of them small, some long. Case `i` of a seed is always the same."""

from dataclasses import replace
from random import Random

from conformance.case import LAYOUTS, REGIMES, BadCase, Case
from conformance.rounding import CACHE_DTYPES, DTYPES
from conformance.steps import step_of

HEAD_DIMS = (1, 2, 3, 8, 16, 32, 40, 64, 64, 72, 80, 96, 112, 128, 128, 160, 192, 256, 512)
PAGE_SIZES = (1, 2, 8, 16, 16, 16, 32, 48, 64, 128, 256, 544, 1024)
GQA_RATIOS = (1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 12, 16, 32, 64)
DRAFTS = (1, 1, 1, *range(2, 18), 32, 128)
WINDOWS = ((0, 0), (16, -1), (31, 0), (100, -1), (4000, 20), (-1, 0), (-1, 3), (20, 4), (3, 64))
KEY_BOUNDS = (513, 1024, 4096, 40_960)
SCALES = (0.01, 0.05, 0.2, 1.0)

LONGEST = 16_384
MOST_PRODUCTS = 2**25
"""Multiplications of Q by K in one case: below a second for the oracle and every emulation together."""

MOST_ELEMENTS = 2**24
"""Of the keys as every query head reads them, and of the pages that hold values."""

MOST_HIGH_ELEMENTS = 2**28
"""Of a cache whose pages begin at 65,536: the empty ones take no memory, except in layouts filled with garbage."""


def draw(seed: int, number: int) -> Case:
    """Case `number` of a seed."""
    random = Random(f"{seed}/{number}")
    while True:
        try:
            case = _attempt(random)
        except BadCase:  # no page to share
            continue
        if _affordable(case):
            return case


def _attempt(random: Random) -> Case:
    long = random.random() < 0.08
    batch = random.choice((1, 1, 2)) if long else random.choice((1, 1, 2, 2, 3, 4, 7))
    query_lens = _query_lens(random, batch)
    kv_heads = random.choice((1, 1, 2, 2, 3, 4, 8))
    alibi, sinks = random.random() < 0.15, random.random() < 0.15
    seq_lens = tuple(_keys(random, m, LONGEST if long else 600) for m in query_lens)
    case = Case(
        causal=random.random() < 0.5,
        dtype=random.choice(DTYPES),
        query_lens=query_lens,
        seq_lens=seq_lens,
        q_heads=kv_heads * random.choice(GQA_RATIOS),
        kv_heads=kv_heads,
        head_dim=random.choice(HEAD_DIMS) if random.random() < 0.9 else random.randint(1, 512),
        page_size=random.choice(PAGE_SIZES) if random.random() < 0.9 else random.randint(1, 1024),
        layout=random.choice(LAYOUTS),
        regime=random.choice(REGIMES),
        window=random.choice(WINDOWS) if random.random() < 0.35 else (-1, -1),
        softcap=random.choice((1.0, 5.0, 30.0, 50.0)) if random.random() < 0.15 else 0.0,
        alibi=alibi,
        sinks=sinks,
        table_width=random.choice((1, 1, 1, 2, 8, 64)),
        page_order=random.choice(("shuffled",) * 4 + ("ascending", "shared", "shared", "high")),
        cache_dtype=random.choice(("",) * 6 + CACHE_DTYPES),
        max_keys=max(random.choice(KEY_BOUNDS), *seq_lens) if random.random() < 0.15 else 0,
        scale=random.choice(SCALES) if random.random() < 0.2 else 0.0,
        fused_q=random.random() < 0.2,
    )
    threshold, chunk = random.choice((1, 4, 8, 16)), random.choice((0, 16, 64, 100))
    prefills = [random.random() < 0.4 for _ in query_lens]
    per_head, q_dtype = random.random() < 0.3, random.choice(CACHE_DTYPES)
    if case.cache_dtype and kv_heads > 1:
        case = replace(case, per_head_descales=per_head)
    if case.cache_dtype and batch > 1 and not case.shared_pages:
        case = replace(case, per_sequence_descales=random.random() < 0.3)
    if random.random() < 0.1:
        case = replace(case, q_dtype=q_dtype)
    return step_of(case, threshold, prefills=prefills, chunk=chunk) if random.random() < 0.2 else case


def _query_lens(random: Random, batch: int) -> tuple[int, ...]:
    """A uniform draft mostly; or ragged, some sequences without a query."""
    if random.random() < 0.7:
        return (random.choice(DRAFTS),) * batch
    lens = tuple(random.choice((0, 1, *DRAFTS)) for _ in range(batch))
    return lens if any(lens) else (1,) * batch


def _keys(random: Random, queries: int, longest: int) -> int:
    """Any length, small ones often; now and then a padded row, or fewer keys than queries."""
    kind = random.random()
    if kind < 0.05:
        return 0
    if kind < 0.15:
        return random.randint(1, max(1, queries))
    return queries + int(longest ** random.random()) - 1


def _affordable(case: Case) -> bool:
    width = case.q_heads * case.head_dim
    rows = sum(case.pages) * case.page_size
    products = sum(m * n for m, n in zip(case.query_lens, case.seq_lens, strict=True)) * width
    if products > MOST_PRODUCTS or max(case.seq_lens) * width > MOST_ELEMENTS:
        return False
    if rows * case.kv_heads * case.head_dim > MOST_ELEMENTS or case.tokens * width > MOST_ELEMENTS:
        return False
    if case.page_order != "high":
        return True
    most = MOST_HIGH_ELEMENTS // (64 if case.layout in ("padded", "sliced") else 1)
    return 65_536 * case.page_size * case.kv_heads * case.head_dim <= most
