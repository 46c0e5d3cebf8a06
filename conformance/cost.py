"""What a case costs on Triton's interpreter, roughly: the programs that its kernel starts and their tiles.

Measured on one CPU core with AITER 0.1.20; within a factor of two or so for most cases, and used to choose the cheaper
of two cases that cover the same.
"""

from conformance.case import DECODE, Case
from conformance.contexts import THRESHOLD, TILE

PROGRAM = {"unified": 1.3e-3, "kvcache": 1.0e-3}
"""Seconds of a program without its tiles."""

MERGE = 3.0e-3
"""Seconds of a program that merges the splits of the kvcache kernel."""

TILE_SECONDS = {"unified": 1.3e-3, "kvcache": 2.0e-3}
"""Seconds of a tile: of up to 64 keys, and in the kvcache kernel of up to a page."""

BLOCK_M = {"unified": 16, "kvcache": 64}
"""Query rows of a program: unified attention's are those of a whole group of heads."""

MOST_SEGMENTS, LEAVING = 128, 4.0e-4
"""Unified attention cuts what a bound of the keys allows into so many segments, or into tiles; and seconds of a program
whose segment has no keys."""

ORACLE = 2.0e-10
"""Seconds of a multiplication of the scores, with all that the oracle computes beside them."""


def seconds(case: Case) -> float:
    """Estimated seconds of a case: the kernel on the interpreter, and the oracle on the same core."""
    work = sum(m * n for m, n in zip(case.query_lens, case.seq_lens, strict=True)) * case.q_heads * case.head_dim
    return 0.05 + work * ORACLE + (_unified(case) if case.causal else _kvcache(case))


def _unified(case: Case) -> float:
    bound, ratio = case.key_bound if case.step == DECODE else max(case.seq_lens), case.gqa_ratio
    single = max(case.query_lens) == 1
    queries = max(BLOCK_M["unified"], ratio) // ratio
    tile = min(TILE, case.page_size) if single or bound > THRESHOLD else TILE
    tile = {256: 32, 512: 16}.get(case.head_dim, tile) if not single else tile
    blocks = [-(-m // queries) for m in case.query_lens]
    programs = sum(blocks) * case.kv_heads
    tiles = case.kv_heads * sum(b * -(-n // tile) for b, n in zip(blocks, case.seq_lens, strict=True))
    leaving = 0  # of a step few programs, its decodes', are told a bound
    if bound > THRESHOLD and case.window == (-1, -1):
        leaving = programs * min(MOST_SEGMENTS, -(-bound // tile)) if case.max_keys else 0
        programs = programs * min(16, -(-max(case.seq_lens) // tile)) + case.tokens * case.q_heads
    return programs * PROGRAM["unified"] + leaving * LEAVING + tiles * TILE_SECONDS["unified"]


def _kvcache(case: Case) -> float:
    rows = case.batch * case.q_heads * -(-max(case.query_lens) // BLOCK_M["kvcache"])
    capacity = max(1, *case.pages) * case.table_width * case.page_size
    splits = _splits(case.batch * case.q_heads, capacity)
    tiles = rows / case.batch * sum(-(-n // min(TILE, case.page_size)) for n in case.seq_lens)
    return rows * (splits * PROGRAM["kvcache"] + MERGE) + tiles * TILE_SECONDS["kvcache"]


def _splits(rows: int, capacity: int) -> int:
    """Splits double as long as each keeps 64 keys and the programs stay under 1,024."""
    splits = max(capacity, 1024) // rows
    while splits > 0 and capacity / splits < TILE:
        splits //= 2
    while rows * splits >= 1024:
        splits //= 2
    return max(1, min(splits, 512))
