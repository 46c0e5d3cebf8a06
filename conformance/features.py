"""Features: what a user asks of paged attention, as rules on checks. The rows of a table over versions or backends.

A check has every feature whose rule holds of it. Each has a step; what its case has besides, it says something about,
unless it captures a graph: one that cannot be captured at 48 keys a page says nothing about pages of 48 keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.axes import LONGEST_DRAFT
from conformance.case import DECODE, EXTEND, PREFILL, Case
from conformance.check import Check
from conformance.contexts import THRESHOLD
from conformance.graphs import GRAPHS, GraphRelation
from conformance.relations import Relation

LONG = 4_096
"""A context of more keys is long."""


@dataclass(frozen=True)
class Feature:
    """A row that a user thinks in. `of` says whether a check has it; a `step` is one of those that every check has."""

    name: str
    meaning: str
    of: Callable[[Check], bool]
    step: bool = False


LSE = Feature("lse", "the answer comes with the log-sum-exp of each row, which is judged too", lambda _: False)
"""Not asked for by any case: a backend gives it, and a result has its figure."""


def built_for(arch: str) -> Feature:
    """What every check has on a target that only builds: that column's own row in a table of what runs elsewhere."""
    return Feature(f"builds for {arch}", f"what a check launches compiles for {arch}, and fits", lambda _: True)


def of(check: Check, results: Iterable[Mapping[str, Any]] = ()) -> list[Feature]:
    """The features of a check, in the order of `FEATURES`, given lines of records that are its results."""
    judged = not isinstance(check.relation, GraphRelation) and any("lse" in result for result in results)
    return [feature for feature in FEATURES if feature.of(check) or (feature is LSE and judged)]


def by_feature(
    checks: Mapping[str, Check], results: Sequence[Mapping[str, Mapping[str, Any]]]
) -> list[tuple[Feature, list[str]]]:
    """The features that some check has, in the order of `FEATURES`, each with the ids of its checks.

    `results` are lines of records by id, of each record.
    """
    having: dict[str, list[str]] = defaultdict(list)
    for name, check in checks.items():
        for feature in of(check, [some.get(name, {}) for some in results]):
            having[feature.name].append(name)
    return [(feature, having[feature.name]) for feature in FEATURES if feature.name in having]


# -- what rules are made of --------------------------------------------------------------------------------------------


def _step(name: str, meaning: str, holds: Callable[[Case], bool]) -> Feature:
    return Feature(name, meaning, lambda check: holds(check.case), step=True)


def _case(name: str, meaning: str, holds: Callable[[Case], bool]) -> Feature:
    """A feature that graphs, which are captured of plain cases, say nothing about."""
    return Feature(name, meaning, lambda check: not isinstance(check.relation, GraphRelation) and holds(check.case))


def _steps(kind: str, meaning: str) -> tuple[Feature, Feature]:
    """The two features of batches in which some sequence does that."""
    return (
        _step(f"non-causal {kind}", f"{meaning}, each query sees every key",
              lambda case: not case.causal and kind in case.kinds),
        _step(f"causal {kind}", f"{meaning}, each query sees the keys up to its own",
              lambda case: case.causal and kind in case.kinds),
    )  # fmt: skip


def _decoded(case: Case) -> list[int]:
    """Queries of each sequence that decodes."""
    return [m for m, kind in zip(case.query_lens, case.kinds, strict=True) if kind == DECODE]


def _most_decoded(case: Case) -> int:
    return max(_decoded(case), default=0)


def _left(case: Case) -> bool:
    return case.window[0] >= 0


def _right(case: Case) -> bool:
    """A causal query sees nothing to its right, whatever the window says."""
    return case.window[1] >= 0 and not case.causal


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _pairs(case: Case) -> Iterable[tuple[int, int]]:
    """Queries and keys of each sequence."""
    return zip(case.query_lens, case.seq_lens, strict=True)


def _head_dim(dim: int) -> Feature:
    return _case(f"head dim {dim}", f"heads of {dim} elements", lambda case: case.head_dim == dim)


MIXED = _case("mixed batch", "decodes, extends and prefills, two of the three or all, in one call",
              lambda case: len(set(case.kinds)) > 1)  # fmt: skip


# -- the table ---------------------------------------------------------------------------------------------------------

FEATURES = (
    *_steps(DECODE, "one token or a draft after a context"),
    *_steps(EXTEND, "new tokens, more than a decode has, after a context"),
    *_steps(PREFILL, "a prompt without a context"),
    MIXED,
    _case("extend with a window", "an extend in which each query sees so many keys to its left",
          lambda case: EXTEND in case.kinds and _left(case)),
    _case("extend in chunks", "the context of an extend is attended so many keys at a time",
          lambda case: case.chunk > 0),
    _case("single token", "every sequence that decodes has one query", lambda case: _most_decoded(case) == 1),
    _case("draft", f"a decode of 2 to {LONGEST_DRAFT} queries", lambda case: 2 <= _most_decoded(case) <= LONGEST_DRAFT),
    _case("longer decode", f"a decode of more than {LONGEST_DRAFT} queries",
          lambda case: _most_decoded(case) > LONGEST_DRAFT),
    _case("speculative verify", f"a causal decode of 1 + up to {LONGEST_DRAFT - 1} drafted tokens",
          lambda case: case.causal and 2 <= _most_decoded(case) <= LONGEST_DRAFT),
    _case("ragged", "sequences that decode differ in their number of queries",
          lambda case: len(set(_decoded(case))) > 1),

    _case("window left", "each query sees so many keys to its left", lambda case: _left(case) and not _right(case)),
    _case("window right", "each query sees so many keys to its right", lambda case: _right(case) and not _left(case)),
    _case("window on both sides", "each query sees so many keys on either side",
          lambda case: _left(case) and _right(case)),
    _case("softcap", "scores are capped by a tanh", lambda case: case.softcap > 0),
    _case("sinks", "each head has a sink, which takes a share of the weight", lambda case: case.sinks),
    _case("ALiBi", "scores fall with the distance to a key", lambda case: case.alibi),
    _case("scale", "another scale of the scores than 1 / sqrt(head dim)", lambda case: case.scale > 0),
    LSE,

    _case("fp8 cache e4m3fn", "K and V stored in OCP's float8", lambda case: case.cache_dtype == "e4m3fn"),
    _case("fp8 cache e4m3fnuz", "K and V stored in the float8 of gfx942", lambda case: case.cache_dtype == "e4m3fnuz"),
    _case("fp8 cache e5m2", "K and V stored in e5m2", lambda case: case.cache_dtype == "e5m2"),
    _case("fp8 queries", "queries stored in float8, with a descale", lambda case: bool(case.q_dtype)),
    _case("per-head descales", "a descale for each KV head", lambda case: case.per_head_descales),
    _case("per-sequence descales", "a descale for each sequence", lambda case: case.per_sequence_descales),
    _case("fp16", "float16 queries and output", lambda case: case.dtype == "fp16"),
    _case("bf16", "bfloat16 queries and output", lambda case: case.dtype == "bf16"),

    _case("packed cache", "K and V side by side in one row, as vLLM stores them",
          lambda case: case.layout == "packed"),
    _case("contiguous cache", "K and V each a dense tensor", lambda case: case.layout == "contiguous"),
    _case("other layouts", "K and V page by page, in padded rows, or sliced from a pool of layers",
          lambda case: case.layout not in ("packed", "contiguous")),
    _case("pages of 1 key", "the smallest pages", lambda case: case.page_size == 1),
    _case("pages of 16 keys", "vLLM's default", lambda case: case.page_size == 16),
    _case("pages of another power of two", "2 to 8 or 32 to 128 keys a page",
          lambda case: case.page_size not in (1, 16) and case.page_size < 256 and _is_power_of_two(case.page_size)),
    _case("pages of 256 keys or more", "as hybrid models have them", lambda case: case.page_size >= 256),
    _case("pages not a power of two", "such as 48 or 544 keys", lambda case: not _is_power_of_two(case.page_size)),
    _case("shared prefix", "sequences have their first pages in common", lambda case: case.page_order == "shared"),
    _case("wide block table", "a table with more columns than the longest sequence needs",
          lambda case: case.table_width > 1),
    _case("large page ids", "ids above 65,535", lambda case: case.page_order in ("high", "huge")),
    _case("caches above 2^31 elements", "offsets that no int32 holds", lambda case: case.page_order == "huge"),

    _case("GQA ratio 1", "as many KV heads as query heads", lambda case: case.gqa_ratio == 1),
    _case("GQA ratio 2 to 8", "2, 4 or 8 query heads to a KV head", lambda case: case.gqa_ratio in (2, 4, 8)),
    _case("GQA ratio 16 or more", "16 query heads to a KV head, or more",
          lambda case: case.gqa_ratio >= 16 and _is_power_of_two(case.gqa_ratio)),
    _case("GQA ratio not a power of two", "such as 5 or 12", lambda case: not _is_power_of_two(case.gqa_ratio)),
    _case("one KV head", "multi-query attention, or what tensor parallelism leaves", lambda case: case.kv_heads == 1),
    *map(_head_dim, (64, 128, 256, 512)),
    _case("head dim of another power of two", "such as 32", lambda case: _is_power_of_two(case.head_dim)
          and case.head_dim not in (64, 128, 256, 512)),
    _case("head dim not a power of two", "such as 80 or 192", lambda case: not _is_power_of_two(case.head_dim)),
    _case("fused q", "queries are a view of the rows of a fused QKV projection", lambda case: case.fused_q),

    _case("padded batch", "rows of length 0 beside others, as a captured batch is padded",
          lambda case: any(m and not n for m, n in _pairs(case)) and any(case.seq_lens)),
    _case("idle sequence", "a sequence without a query beside others", lambda case: not all(case.query_lens)),
    _case("empty contexts", "no sequence has a key", lambda case: not any(case.seq_lens)),
    _case("short contexts", "a sequence of fewer keys than queries",
          lambda case: any(0 < n < m for m, n in _pairs(case))),
    _case("long context", f"more than {LONG:,} keys", lambda case: max(case.seq_lens) > LONG),
    _case(f"more than {THRESHOLD} keys", "or a bound of so many: from there on kernels split the keys",
          lambda case: case.key_bound > THRESHOLD),
    _case("bound of keys above the keys", "the caller passes a longest context that no sequence has",
          lambda case: case.key_bound > max(case.seq_lens)),
    _case("unused memory holds NaN", "or huge values, or a table ids out of range, where no key is",
          lambda case: case.regime.startswith("poison.")),
    _case("logits far from 0", "all of a row's scores are far below or above 0",
          lambda case: case.regime in ("shifted", "large")),

    *(Feature(f"graph capture: {name.removeprefix('graph.')}", relation.says,
              lambda check, name=name: check.relation is not None and check.relation.name == name)
      for name, relation in GRAPHS.items() if name.startswith("graph.")),
    Feature("no host read", "the call reads no value of the device",
            lambda check: check.relation is not None and check.relation.name == "host.reads"),
    Feature("invariances", "two calls whose answers must be equal bit for bit",
            lambda check: isinstance(check.relation, Relation) and check.relation.bitwise),
    Feature("agreement", "two calls whose answers must be equal but for what both may err by",
            lambda check: isinstance(check.relation, Relation) and not check.relation.bitwise),
)  # fmt: skip
"""Every feature, in the order in which tables have them."""

BY_NAME = {feature.name: feature for feature in FEATURES}
