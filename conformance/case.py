"""A case: one attention call, fully described."""

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from itertools import accumulate, groupby

from conformance.rounding import CACHE_DTYPES, DTYPES

LAYOUTS = ("contiguous", "packed", "interleaved", "padded", "sliced")
"""How K and V lie in memory: apart; side by side in one row, as vLLM stores them; page by page; apart, in rows longer
than the head dimension; apart, each one layer of a pool of several."""

PAGE_ORDERS = ("shuffled", "ascending", "shared", "high", "huge")
"""Which pages sequences own: any; in order; those of a common prefix together; ids above 65,535; any so high that the
caches hold more than 2^31 elements."""

REGIMES = (
    "random",
    "needle",
    "poison.pages",
    "poison.tails",
    "poison.garbage",
    "poison.table",
    "shifted",
    "large",
    "constant",
    "onehot",
)
"""How the inputs are made: see `conformance.regimes`."""

DECODE, EXTEND, PREFILL = "decode", "extend", "prefill"
"""What a step does with a sequence: a token or a draft at its end; a part of its prompt; all of its prompt at once."""

MOST_SEQUENCES = 2**16
LARGEST = 2**31 - 1
"""Kernels take lengths, and indices into the block table, as int32."""


def kind_of(queries: int, keys: int, threshold: int) -> str:
    """What a step does with a sequence, where up to `threshold` queries decode: DECODE, EXTEND or PREFILL."""
    return DECODE if queries <= threshold else PREFILL if queries == keys else EXTEND


class BadCase(ValueError):
    """A case id or a combination of fields that describes no attention call."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step of attention over a paged KV cache; its id round-trips: `Case.parse(case.id) == case`.

    `query_lens` and `seq_lens` have one entry a sequence; a sequence length counts all keys, those of its own query
    tokens included. A sequence that decodes may have more queries than keys: servers pad captured batches so.
    """

    causal: bool
    dtype: str
    query_lens: tuple[int, ...]
    seq_lens: tuple[int, ...]
    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    layout: str = "contiguous"
    regime: str = "random"
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: bool = False
    sinks: bool = False
    table_width: int = 1  # times the pages that the longest sequence needs
    page_order: str = "shuffled"
    cache_dtype: str = ""  # q's, or a smaller one that descales go with
    max_keys: int = 0  # what the caller says that no sequence has more keys than; 0: the longest sequence's
    scale: float = 0.0  # what q K is multiplied by; 0: 1 / sqrt(head_dim), which kernels take where none is given
    fused_q: bool = False  # q is a view of the rows of a fused QKV projection, as vLLM's is; else it is contiguous
    q_dtype: str = ""  # q's, where it is smaller than the output's and a descale goes with it
    per_head_descales: bool = False  # a cache's descales differ from KV head to KV head
    decode_threshold: int = 0  # so many queries at most decode; 0: as many as any sequence has, and all decode
    chunk: int = 0  # context keys of a sequence that an extend takes at a time; 0: all of them
    per_sequence_descales: bool = False  # a cache's descales differ from sequence to sequence, and those of q

    def __post_init__(self) -> None:
        if len(self.query_lens) > MOST_SEQUENCES:
            raise BadCase(f"a batch has at most {MOST_SEQUENCES} sequences, not {len(self.query_lens)}")
        if not self.query_lens or len(self.query_lens) != len(self.seq_lens):
            raise BadCase(f"{len(self.query_lens)} query lengths do not go with {len(self.seq_lens)} sequence lengths")
        if min(self.query_lens) < 0 or min(self.seq_lens) < 0 or not any(self.query_lens):
            raise BadCase("lengths must not be negative, and some sequence must have a query")
        if min(self.q_heads, self.kv_heads, self.head_dim, self.page_size, self.table_width) < 1:
            raise BadCase("heads, head dimension, page size and table width must be positive")
        if self.q_heads % self.kv_heads:
            raise BadCase(f"{self.q_heads} query heads cannot share {self.kv_heads} KV heads evenly")
        width = max(1, *self.pages) * self.table_width
        if (
            max(self.tokens, *self.seq_lens, *self.window, self.q_heads * self.head_dim, self.page_size, width)
            > LARGEST
        ):
            raise BadCase(f"a length, a window and the width of the block table are at most {LARGEST}")
        if min(self.window) < -1:
            raise BadCase("a window side is a number of keys, or -1 for unbounded")
        _require_plain("softcap", self.softcap)
        _require_plain("scale", self.scale)
        if self.max_keys and not max(self.seq_lens) <= self.max_keys <= LARGEST:
            raise BadCase(f"{self.max_keys} is no upper bound of {max(self.seq_lens)} keys, or more than {LARGEST}")
        for name, value, known in (
            ("dtype", self.dtype, DTYPES),
            ("layout", self.layout, LAYOUTS),
            ("regime", self.regime, REGIMES),
            ("page order", self.page_order, PAGE_ORDERS),
            ("cache dtype", self.cache_dtype, ("", *CACHE_DTYPES)),
            ("q dtype", self.q_dtype, ("", *CACHE_DTYPES)),
        ):
            if value not in known:
                raise BadCase(f"{name} {value!r} is none of {', '.join(filter(None, known))}")
        if self.page_order == "shared" and not self.shared_pages:
            raise BadCase("no two sequences have a full page that they could share")
        self._require_descales()
        self._require_a_step()

    def _require_descales(self) -> None:
        if self.per_head_descales and (not self.cache_dtype or self.kv_heads == 1):
            raise BadCase("descales differ from head to head where a smaller cache has several")
        if self.per_sequence_descales and (not self.cache_dtype or self.batch == 1 or self.shared_pages):
            raise BadCase("descales differ from sequence to sequence where several share no page of a smaller cache")

    def _require_a_step(self) -> None:
        if not 0 <= min(self.decode_threshold, self.chunk) <= max(self.decode_threshold, self.chunk) <= LARGEST:
            raise BadCase(f"the decode threshold and a chunk are numbers of tokens, at most {LARGEST}")
        if self.decode_threshold and self.decode_threshold >= max(self.query_lens):
            raise BadCase(f"every sequence decodes: a threshold of {self.decode_threshold} says nothing")
        for m, n, kind in zip(self.query_lens, self.seq_lens, self.kinds, strict=True):
            if kind != DECODE and m > n:
                raise BadCase(f"{m} tokens of a prompt are more than the {n} keys of its sequence")
        if list(self.kinds) != sorted(self.kinds):
            raise BadCase("a batch holds its decodes first, then its extends, then its prefills")
        if self.chunk and not self.takes_chunks:
            raise BadCase("no sequence has a context that is taken in chunks")

    @property
    def batch(self) -> int:
        return len(self.query_lens)

    @property
    def tokens(self) -> int:
        return sum(self.query_lens)

    @property
    def gqa_ratio(self) -> int:
        return self.q_heads // self.kv_heads

    @property
    def key_bound(self) -> int:
        """What the caller says that no sequence has more keys than."""
        return self.max_keys or max(self.seq_lens)

    @cached_property
    def query_starts(self) -> tuple[int, ...]:
        """First packed query row of every sequence, and the total: B + 1 entries."""
        return tuple(accumulate(self.query_lens, initial=0))

    @cached_property
    def pages(self) -> tuple[int, ...]:
        """Pages that each sequence occupies."""
        return tuple(-(-n // self.page_size) for n in self.seq_lens)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What each sequence does: DECODE, EXTEND or PREFILL; in the order in which a batch holds them, and sorted."""
        most = self.decode_threshold or max(self.query_lens)
        return tuple(kind_of(m, n, most) for m, n in zip(self.query_lens, self.seq_lens, strict=True))

    @property
    def step(self) -> str:
        """DECODE, EXTEND or PREFILL if all sequences do that, else "mixed"."""
        return self.kinds[0] if len(set(self.kinds)) == 1 else "mixed"

    @property
    def several_descales(self) -> bool:
        """Has a cache more than one descale?"""
        return self.per_head_descales or self.per_sequence_descales

    @property
    def takes_chunks(self) -> bool:
        """Is an extend's context attended apart from its new tokens? Not with a window to the left."""
        return EXTEND in self.kinds and self.window[0] < 0

    def parts(self, b: int) -> tuple[int, ...]:
        """Where the parts begin in which the keys of sequence `b` are attended, and its length: chunks, new tokens."""
        n, context = self.seq_lens[b], self.seq_lens[b] - self.query_lens[b]
        if self.kinds[b] != EXTEND or not self.takes_chunks:
            return (0, n)
        return (*range(0, context, self.chunk or context), context, n)

    @property
    def shared_pages(self) -> int:
        """Leading pages that all sequences with a full page have in common: half of what the shortest of them fills."""
        full = [n // self.page_size for n in self.seq_lens if n >= self.page_size]
        return max(1, min(full) // 2) if self.page_order == "shared" and len(full) > 1 else 0

    @property
    def id(self) -> str:
        """Readable, safe for `pytest -k`, and stable for ever: a new field shows only where it is not its default."""
        words = [
            self.step,
            "causal" if self.causal else "noncausal",
            self.dtype,
            f"b{self.batch}",
            f"q{_write_lengths(self.query_lens)}",
            f"h{self.q_heads}:{self.kv_heads}",
            f"d{self.head_dim}",
            f"p{self.page_size}",
            f"kv{_write_lengths(self.seq_lens)}",
        ]
        words += [word for token in _OPTIONAL if (word := token.write(self)) is not None]
        return "-".join([*words, self.layout, self.regime])

    @classmethod
    def parse(cls, text: str) -> "Case":
        """The case that an id names. Raises BadCase, with the part that it could not read."""
        match = _REQUIRED.fullmatch(text)
        if match is None:
            raise BadCase(f"not a case id: {text!r} (a case id reads like {EXAMPLE})")
        part = match.groupdict()
        batch = int(part["batch"])
        optional = {}
        for word in filter(None, part["optional"].split("-")):
            token = next((t for t in _OPTIONAL if re.fullmatch(t.pattern, word)), None)
            if token is None:
                raise BadCase(f"{word!r} means nothing in case id {text!r}")
            optional[token.field] = token.read(word)
        case = cls(
            causal=part["mode"] == "causal",
            dtype=part["dtype"],
            query_lens=_read_lengths(part["q"], batch),
            seq_lens=_read_lengths(part["kv"], batch),
            q_heads=int(part["q_heads"]),
            kv_heads=int(part["kv_heads"]),
            head_dim=int(part["head_dim"]),
            page_size=int(part["page_size"]),
            layout=part["layout"],
            regime=part["regime"],
            **optional,
        )
        if case.id != text:  # the step among it, which the lengths and the threshold make
            raise BadCase(f"{text!r} is written {case.id!r}")
        return case


EXAMPLE = "decode-noncausal-bf16-b2-q16-h32:8-d128-p16-kv1000-packed-random"

_NUMBER = r"[0-9]{1,10}"
_LENGTHS = rf"{_NUMBER}(?:x{_NUMBER})?(?:\+{_NUMBER}(?:x{_NUMBER})?)*"
_REQUIRED = re.compile(
    rf"(?:decode|extend|prefill|mixed)-(?P<mode>causal|noncausal)-(?P<dtype>[a-z0-9]+)-b(?P<batch>{_NUMBER})-q(?P<q>[0-9x+]+)"
    rf"-h(?P<q_heads>{_NUMBER}):(?P<kv_heads>{_NUMBER})-d(?P<head_dim>{_NUMBER})-p(?P<page_size>{_NUMBER})"
    rf"-kv(?P<kv>[0-9x+]+)(?P<optional>(?:-[a-z][a-z0-9.:]*)*)-(?P<layout>[a-z]+)-(?P<regime>[a-z.]+)"
)


@dataclass(frozen=True)
class _Token:
    """How an optional field shows in an id: the shape of its word, and how to write and read it."""

    field: str
    pattern: str
    show: Callable[..., str]
    read: Callable[[str], object]

    def write(self, case: Case) -> str | None:
        value = getattr(case, self.field)
        return None if value == _DEFAULTS[self.field] else self.show(value)


def _require_plain(name: str, number: float) -> None:
    """Raises BadCase unless an id can carry the number."""
    if number < 0 or not re.fullmatch(r"[\d.]+", plain := f"{number:g}") or float(plain) != number:
        raise BadCase(f"{name} {number} is not a plain positive number of at most 6 digits")


def _side(text: str) -> int:
    return -1 if text == "inf" else int(text)


def _window(word: str) -> tuple[int, int]:
    left, right = word[1:].split(":")
    return _side(left), _side(right)


_DEFAULTS = {f.name: f.default for f in fields(Case) if f.default is not MISSING}
_OPTIONAL = (
    _Token(
        "window",
        rf"w(?:{_NUMBER}|inf):(?:{_NUMBER}|inf)",
        lambda sides: "w" + ":".join("inf" if side < 0 else str(side) for side in sides),
        _window,
    ),
    _Token(
        "softcap", rf"softcap{_NUMBER}(?:\.{_NUMBER})?", lambda cap: f"softcap{cap:g}", lambda word: float(word[7:])
    ),
    _Token("alibi", r"alibi", lambda _: "alibi", lambda _: True),
    _Token("sinks", r"sinks", lambda _: "sinks", lambda _: True),
    _Token("table_width", rf"table{_NUMBER}x", lambda times: f"table{times}x", lambda word: int(word[5:-1])),
    _Token("page_order", r"pages\.[a-z]+", "pages.{}".format, lambda word: word[6:]),
    _Token("cache_dtype", r"cache\.[a-z0-9]+", "cache.{}".format, lambda word: word[6:]),
    _Token("max_keys", rf"max{_NUMBER}", "max{}".format, lambda word: int(word[3:])),
    _Token("scale", rf"scale{_NUMBER}(?:\.{_NUMBER})?", "scale{:g}".format, lambda word: float(word[5:])),
    _Token("fused_q", r"q\.fused", lambda _: "q.fused", lambda _: True),
    _Token("q_dtype", r"q\.e[a-z0-9]+", "q.{}".format, lambda word: word[2:]),
    _Token("per_head_descales", r"descale\.head", lambda _: "descale.head", lambda _: True),
    _Token("per_sequence_descales", r"descale\.seq", lambda _: "descale.seq", lambda _: True),
    _Token("decode_threshold", rf"t{_NUMBER}", "t{}".format, lambda word: int(word[1:])),
    _Token("chunk", rf"chunk{_NUMBER}", "chunk{}".format, lambda word: int(word[5:])),
)


def _write_lengths(lengths: tuple[int, ...]) -> str:
    """`16` for a uniform batch, else runs: `1x3+17` for (1, 1, 1, 17)."""
    runs = [(value, len(list(same))) for value, same in groupby(lengths)]
    if len(runs) == 1:
        return str(runs[0][0])
    return "+".join(str(value) if count == 1 else f"{value}x{count}" for value, count in runs)


def _read_lengths(text: str, batch: int) -> tuple[int, ...]:
    if batch > MOST_SEQUENCES:
        raise BadCase(f"a batch has at most {MOST_SEQUENCES} sequences, not {batch}")
    if not re.fullmatch(_LENGTHS, text):
        raise BadCase(f"not a list of lengths: {text!r} (write 16, or 1+5+16, or 1x3+17)")
    if text.isdigit():
        return (int(text),) * batch
    runs = [tuple(map(int, run.split("x"))) for run in text.split("+")]
    total = sum(run[1] if len(run) == 2 else 1 for run in runs)
    if total != batch:
        raise BadCase(f"{text!r} gives {total} lengths for a batch of {batch}")
    return tuple(run[0] for run in runs for _ in range(run[1] if len(run) == 2 else 1))
