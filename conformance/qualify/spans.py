"""Spans: in which of the versions that were tried something works, as a sentence that is computed and never typed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby


class Way(StrEnum):
    """How a version serves something, in the word that a sentence has for it."""

    WORKS = "works"
    BROKEN = "broken"
    REFUSED = "refused"
    UNKNOWN = "not run"  # or not all of it, or the version does not import


@dataclass(frozen=True)
class Span:
    """Versions one after the other, of those that are known, that are alike; by their places."""

    way: Way
    first: int
    last: int


def claim(versions: Sequence[str], ways: Sequence[Way]) -> str:
    """`since 0.1.16`; `broken in 0.1.16-0.1.17`; `throughout`; "" where fewer than two versions are known.

    Versions are in their order, with a way each. One that is not known breaks no claim: it is named where it lies
    between versions that the claim is about, since the change may have come with it.
    """
    known = [at for at, way in enumerate(ways) if way is not Way.UNKNOWN]
    if len(known) < 2:
        return ""
    spans = list(_spans(known, ways))
    if len(spans) == 1:
        said = "throughout" if spans[0].way is Way.WORKS else f"{spans[0].way} throughout"
        return said + _not_known(versions, ways, known[0], known[-1])
    return ", ".join(_parts(versions, ways, spans))


def seen(versions: Sequence[str], ways: Sequence[Way]) -> str:
    """`0.1.15`; `0.1.9-0.1.15`; `since 0.1.16`; `throughout`: those versions that are BROKEN, one after the other.

    A version that is not known neither begins nor ends a span.
    """
    known = [at for at, way in enumerate(ways) if way is not Way.UNKNOWN]
    spans = [span for span in _spans(known, ways) if span.way is Way.BROKEN]
    return ", ".join(_named(versions, span, known) for span in spans)


def _named(versions: Sequence[str], span: Span, known: Sequence[int]) -> str:
    first, last = versions[span.first], versions[span.last]
    if span.last == known[-1] and len(known) > 1:
        return "throughout" if span.first == known[0] else f"since {first}"
    return first if first == last else f"{first}-{last}"


def _spans(known: Sequence[int], ways: Sequence[Way]) -> Iterator[Span]:
    for way, some in groupby(known, key=lambda at: ways[at]):
        first, *others = some
        yield Span(way, first, others[-1] if others else first)


def _parts(versions: Sequence[str], ways: Sequence[Way], spans: Sequence[Span]) -> Iterator[str]:
    """What is said of each span: `since` of the first that works, and where it does not work before or after that."""
    working = next((span for span in spans if span.way is Way.WORKS), None)
    for before, span, after in zip((None, *spans), spans, (*spans[1:], None), strict=False):
        if span.way is Way.WORKS:
            if span is not working or before is None:
                continue  # it works again, as the end of what was broken says; or from the first version on
            said = f"since {versions[span.first]}"
        elif before is None:
            if after is working:
                continue  # as "since" says
            said = f"{span.way} up to {versions[span.last]}"
        elif after is None:
            said = f"{span.way} since {versions[span.first]}"
        elif span.first == span.last:
            said = f"{span.way} in {versions[span.first]}"
        else:
            said = f"{span.way} in {versions[span.first]}-{versions[span.last]}"
        first = before.last if before else span.first
        last = after.first if after else span.last
        yield said + _not_known(versions, ways, first, last)


def _not_known(versions: Sequence[str], ways: Sequence[Way], first: int, last: int) -> str:
    """` (0.1.15 not run)`, of those between two places; "" where all are known."""
    lacking = [versions[at] for at in range(first, last) if ways[at] is Way.UNKNOWN]
    return f" ({', '.join(lacking)} {Way.UNKNOWN})" if lacking else ""
