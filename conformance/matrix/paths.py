"""Which path a check took, where it gave an answer; and would have taken, as far as the others of its kind tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from conformance.case import DECODE, Case
from conformance.check import Check
from conformance.features import MIXED, Feature
from conformance.record import Result

NONE = "no path"
"""Where nothing answered, and nothing tells what would have."""

SEVERAL = "several paths"
"""Where the parts of a batch go by paths of their own."""


def places(own: Sequence[str], features: Sequence[Feature]) -> Iterator[tuple[str, Feature]]:
    """The rows in which a check stands that took these paths and has these features.

    What a mixed batch has, no single part of it need have: of the rows of a part's path it is in `MIXED` alone.
    """
    yield from ((own[0] if len(own) == 1 else SEVERAL, feature) for feature in features)
    if len(own) > 1 and MIXED in features:
        yield from ((path, MIXED) for path in own)


def paths(checks: Mapping[str, Check], results: Mapping[str, Result]) -> dict[str, tuple[str, ...]]:
    """The paths of every check, by its id, in the column that has these results of some of them.

    A record says what ran; each part of a mixed batch has a path. Of a relation of two calls, the paths of the first
    are the check's. What was refused, failed without an answer or was not run stands where all batches of its kind
    went, under `NONE` if there is none, or if they went several ways.
    """
    recorded = {check: own[0] for check in checks if (own := taken_by(results.get(check, {})))}
    taken: dict[Hashable, set[tuple[str, ...]]] = defaultdict(set)
    for check, own in recorded.items():
        for kind in _from_fine_to_coarse(checks[check].case):
            taken[kind].add(own)
    return {name: recorded.get(name) or _would_take(check.case, taken) for name, check in checks.items()}


def taken_by(result: Result) -> list[tuple[str, ...]]:
    """The paths that a line of a record names, of each call: `unified+prefill.mha and unified`."""
    return [tuple(dict.fromkeys(call.split("+"))) for call in result.get("path", "").split(" and ") if call]


def _would_take(case: Case, taken: Mapping[Hashable, set[tuple[str, ...]]]) -> tuple[str, ...]:
    """What the finest kind did of which anything answered."""
    some = next((some for kind in _from_fine_to_coarse(case) if (some := taken.get(kind))), set())
    return next(iter(some)) if len(some) == 1 else (NONE,)


def _from_fine_to_coarse(case: Case) -> Iterable[Hashable]:
    """What a dispatch may choose by, in tuples of unlike lengths: each kind is part of the next."""
    steps = case.causal, tuple(sorted(set(case.kinds)))
    decoded = {m for m, kind in zip(case.query_lens, case.kinds, strict=True) if kind == DECODE}
    ragged, single = len(decoded) > 1, decoded == {1}
    yield *steps, ragged, single, case.window[0] >= 0, case.cache_dtype, case.q_dtype
    yield *steps, ragged, single, case.window[0] >= 0
    yield *steps, ragged
    yield steps
