"""The smallest case with the same failure, the same from wherever one starts.

Each move offers what is simpler in one respect, in a fixed order, the simplest first, and sizes that do not depend on
the start: so two starts that one defect fails meet in one case. Moves are made until none helps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from conformance.case import DECODE, EXTEND, LAYOUTS, PREFILL, REGIMES, BadCase, Case
from conformance.check import Check
from conformance.rounding import DTYPES
from conformance.triage.signature import Signature

MOST_RUNS = 30

MANY_KEYS, FEW_KEYS, FEW_QUERIES = 530, 20, 4
"""More than a kernel takes whole; more than a page; a short draft."""

BOUND = 4096
"""Of the keys, as a server that captures graphs passes it: kernels go another way without many keys."""

KEYS = (1, 2, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025)
"""Lengths on either side of where kernels change what they do."""

QUERIES, HEADS, HEAD_DIMS = (1, 2, 4, 8, 16), ((1, 1), (2, 1), (2, 2), (4, 2)), (64, 128)
WINDOW = 8
"""Keys on a side that is bounded."""

PLAIN = {
    "chunk": 0, "window": (-1, -1), "softcap": 0.0, "alibi": False, "sinks": False, "table_width": 1,
    "page_order": "shuffled", "scale": 0.0, "fused_q": False, "q_dtype": "", "per_head_descales": False,
    "per_sequence_descales": False, "cache_dtype": "", "max_keys": 0,
}  # fmt: skip
"""What a case is without features, in the order in which they are dropped."""


@dataclass(frozen=True)
class Step:
    """A case that was tried, and whether it fails in the same way."""

    check: Check
    same: bool
    says: str


@dataclass
class Shrinking:
    """`signature_of` runs a check and gives its failure, or None where it passes; `say` gets each trial."""

    signature_of: Callable[[Check], Signature | None]
    say: Callable[[Step], None] = lambda _: None
    most: int = MOST_RUNS
    tried: dict[str, bool] = field(default_factory=dict)

    def smallest(self, start: Check, failure: Signature) -> Check:
        """The smallest case with `failure`, or the smallest that was found in so many runs."""
        self.tried[start.id] = True
        case = start.case
        while True:
            before = case
            for move in MOVES:
                case = self._moved(start, failure, case, move)
            if case == before or self.spent:
                return Check(case, start.relation)

    @property
    def spent(self) -> bool:
        """Are all runs used up?"""
        return len(self.tried) >= self.most

    def _moved(self, start: Check, failure: Signature, case: Case, move: Move) -> Case:
        for offered in move(case, start.case):
            try:
                smaller = offered()
                check = Check.parse(Check(smaller, start.relation).id)  # which refuses what a relation does not take
            except BadCase:
                continue
            if rank(smaller) < rank(case) and self._is_same(check, failure):
                return smaller
        return case

    def _is_same(self, check: Check, failure: Signature) -> bool:
        if check.id not in self.tried:
            if self.spent:
                return False
            found = self.signature_of(check)
            self.tried[check.id] = found is not None and found.is_same(failure)
            self.say(Step(check, self.tried[check.id], "passes" if found is None else str(found)))
        return self.tried[check.id]


def rank(case: Case) -> tuple[int, ...]:
    """What is smaller is simpler; every move lowers it, so that there is an end."""
    features = [name for name, plain in PLAIN.items() if name != "max_keys" and getattr(case, name) != plain]
    return (
        len(features),
        REGIMES.index(case.regime),
        LAYOUTS.index(case.layout),
        DTYPES.index(case.dtype),
        len(set(case.kinds)),
        case.batch,
        max(case.query_lens) if case.step == DECODE else 0,
        sum(case.seq_lens) + sum(case.query_lens),
        case.key_bound,
        case.q_heads + case.kv_heads,
        case.head_dim,
        case.page_size,
        sum(side + 1 for side in case.window),
    )


# -- moves: each offers simpler cases, the simplest first -------------------------------------------------------------

Offers = Iterable[Callable[[], Case]]
Move = Callable[[Case, Case], Offers]
"""Of a case, and the start, whose features a smaller case may have."""


def _with(case: Case, **changes: object) -> Callable[[], Case]:
    return lambda: replace(case, **changes)  # type: ignore[arg-type]


Lengths = tuple[tuple[int, ...], tuple[int, ...], int]
"""Queries and keys of each sequence, and the bound of the keys; 0 for none."""


def _lengths(case: Case, start: Case) -> Offers:
    """Known small batches that do what the start does, or one of the things that a mixed one does."""
    some = [(lengths, 0) for lengths in _decodes(start)] + [(lengths, 1) for lengths in _prompts(start)]
    for (queries, keys, bound), threshold in sorted(some, key=lambda one: _size(one[0])):
        smaller = _with(
            case, query_lens=queries, seq_lens=keys, max_keys=bound, decode_threshold=threshold, chunk=0,
            per_sequence_descales=case.per_sequence_descales and len(queries) > 1,
        )  # fmt: skip
        yield smaller
        if case.chunk and threshold:
            yield lambda smaller=smaller: replace(smaller(), chunk=case.chunk)


def _size(lengths: Lengths) -> tuple[int, int, int]:
    queries, keys, _ = lengths
    return len(queries), max(queries), sum(keys)


def _prompts(start: Case) -> Iterator[Lengths]:
    """One sequence that prefills, or extends a short or a long context."""
    if PREFILL in start.kinds:
        yield (FEW_KEYS,), (FEW_KEYS,), 0
    if EXTEND in start.kinds:
        yield (FEW_KEYS,), (2 * FEW_KEYS,), 0
        yield (FEW_KEYS,), (MANY_KEYS,), 0


def _decodes(start: Case) -> Iterator[Lengths]:
    pairs = [pair for *pair, kind in zip(start.query_lens, start.seq_lens, start.kinds, strict=True) if kind == DECODE]
    if not pairs:
        return
    m = FEW_QUERIES
    bounds = (0, BOUND) if start.causal else (0,)
    for bound in bounds:
        for queries in (1, m):
            yield (queries,), (FEW_KEYS,), bound
            yield (queries, queries), (FEW_KEYS, 2 * FEW_KEYS), bound
            if any(not n for _, n in pairs):
                yield (queries, queries), (0, FEW_KEYS), bound
        if any(0 < n < q for q, n in pairs):
            yield (m,), (m // 2,), bound
    for queries in (1, m):
        yield (queries,), (MANY_KEYS,), 0
        if any(not n for _, n in pairs):
            yield (queries, queries), (0, MANY_KEYS), 0


def _features(case: Case, _: Case) -> Offers:
    """Without any of them."""
    yield _with(case, **{name: plain for name, plain in PLAIN.items() if name != "max_keys"})


def _without(name: str) -> Move:
    def drop(case: Case, _: Case) -> Offers:
        if name == "cache_dtype":
            yield _with(case, cache_dtype="", per_head_descales=False, per_sequence_descales=False)
        yield _with(case, **{name: PLAIN[name]})

    return drop


def _ladder(name: str, values: Iterable[object]) -> Move:
    return lambda case, _: (_with(case, **{name: value}) for value in values)


def _heads(case: Case, _: Case) -> Offers:
    for q_heads, kv_heads in HEADS:
        yield _with(case, q_heads=q_heads, kv_heads=kv_heads, per_head_descales=case.per_head_descales and kv_heads > 1)


def _window(case: Case, _: Case) -> Offers:
    yield _with(case, window=tuple(min(side, WINDOW) for side in case.window))


def _queries(case: Case, _: Case) -> Offers:
    if case.step == DECODE:
        for most in QUERIES:
            yield _with(case, query_lens=tuple(min(m, most) for m in case.query_lens))


def _keys(case: Case, _: Case) -> Offers:
    """Of the longest sequence."""
    longest = max(range(case.batch), key=lambda b: case.seq_lens[b])
    extra = case.query_lens[longest] if case.step != DECODE else 0
    for keys in KEYS:
        if case.kinds[longest] != PREFILL and extra < keys < case.seq_lens[longest]:
            lens = [*case.seq_lens]
            lens[longest] = keys
            if keys >= case.query_lens[longest] or case.seq_lens[longest] < case.query_lens[longest]:
                yield _with(case, seq_lens=tuple(lens))


MOVES: tuple[Move, ...] = (
    _lengths,
    _features,
    *map(_without, PLAIN),
    _ladder("regime", REGIMES[:1]),
    _ladder("layout", LAYOUTS),
    _ladder("dtype", DTYPES),
    _heads,
    _ladder("head_dim", HEAD_DIMS),
    _ladder("page_size", (16, 64)),
    _window,
    _queries,
    _keys,
)
