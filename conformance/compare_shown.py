"""A comparison as a person reads it in a terminal or in a pull request, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from conformance.compare import Change, Changed, Comparison
from conformance.compare_sets import SetComparison
from conformance.record import Record
from conformance.summary import in_words

SHOWN = 10
"""So many checks that are in one record alone are named."""

BRIEF = (Change.NEW, Change.MISSING, Change.EDITED)
"""Changes of which some checks are named, and the others counted."""


def as_text(found: Comparison) -> Iterator[str]:
    """The gravest last, where a terminal stands still."""
    for which, record in (("old", found.old), ("new", found.new)):
        yield f"{which}  {_described(record)}"
    for change, some in reversed(found.by_change.items()):
        yield ""
        yield f"{change}  {len(some)}"
        named = _named(change, some)
        for changed in named:
            yield f"  {changed.check}" + (f"   {changed.how}" if changed.how else "")
        if len(some) > len(named):
            yield f"  ... and {len(some) - len(named)} more"
    yield ""
    yield found.verdict


def as_markdown(found: Comparison) -> Iterator[str]:
    """For a comment on a pull request: the verdict first; each change folded, what regressed unfolded."""
    yield f"**{found.verdict}**"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    for which, record in (("old", found.old), ("new", found.new)):
        yield f"| {which} | {_described(record)} |"
    for change, some in found.by_change.items():
        yield ""
        yield f"<details{' open' if change is Change.REGRESSED else ''}><summary>{change}: {len(some)}</summary>"
        yield ""
        named = _named(change, some)
        for changed in named:
            yield f"* `{changed.check}`" + (f": {changed.how}" if changed.how else "")
        if len(some) > len(named):
            yield f"* ... and {len(some) - len(named)} more"
        yield ""
        yield "</details>"


def as_json(found: Comparison) -> Iterator[str]:
    """Everything, in one object."""
    yield json.dumps(_comparison(found), indent=1)


def of_sets(found: SetComparison, form: str) -> Iterator[str]:
    """Of each pair what one comparison shows; then what has no counterpart, and the verdicts once more."""
    if form == "json":
        only = {"only old": found.only_old, "only new": found.only_new}
        alone = {which: list(map(_object, some)) for which, some in only.items()}
        whole = {"regressed": found.regressed, "complete": found.complete, "common": found.common}
        yield json.dumps(whole | {"pairs": list(map(_comparison, found.pairs))} | alone, indent=1)
        return
    for pair in found.pairs:
        yield from FORMATS[form](pair)
        yield ""
    for which, some in (("old", found.only_old), ("new", found.only_new)):
        for record in some:
            yield f"only in the {which} set: {record.name} ({record.target})"
    for pair in found.pairs:
        yield f"{_from_to(pair)}: {pair.verdict}"


FORMATS: dict[str, Callable[[Comparison], Iterator[str]]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
}


def _named(change: Change, some: list[Changed]) -> list[Changed]:
    return some[:SHOWN] if change in BRIEF else some


def _from_to(pair: Comparison) -> str:
    """`aiter 0.1.16 (interpreter:gfx942)`; with an arrow where the new one is called otherwise."""
    was, now = (f"{record.name} ({record.target})" for record in (pair.old, pair.new))
    return was if was == now else f"{was} -> {now}"


def _comparison(found: Comparison) -> dict[str, object]:
    return {
        "verdict": found.verdict,
        "regressed": found.regressed,
        "complete": found.complete,
        "common": found.common,
        "old": _object(found.old),
        "new": _object(found.new),
        "changes": {
            change: [{"check": one.check, "how": one.how} for one in some] for change, some in found.by_change.items()
        },
    }


def _described(record: Record) -> str:
    counts = ", ".join(in_words(record.counts))
    cut = "" if record.complete else "; INCOMPLETE"
    return f"{record.name} ({record.target}): {counts or 'no result'}{cut}"


def _object(record: Record) -> dict[str, object]:
    return {"name": record.name, "target": record.target, "complete": record.complete, "counts": dict(record.counts)}
