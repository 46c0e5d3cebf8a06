"""The lines a run prints about itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from conformance import __version__
from conformance.status import Status
from conformance.system import System

if TYPE_CHECKING:
    from conformance.bookkeeping import Bookkeeper

FIGURES = {"bound": "error/bound", "noise": "noise", "row_noise": "noise of a row", "lse": "lse error/bound"}
"""A result's figures, as a person reads them; the limits are in `conformance.judge`."""


def header_lines(system: System, title: str) -> list[str]:
    """What is about to run."""
    lines = [f"conformance {__version__}: {title}, backend {system.backend.name}, target {system.target_spec}"]
    if system.source:
        lines.append(f"AITER {system.source.described}, {system.source.root}")
    elif system.defaulted:
        lines.append("No AITER is installed: PyTorch's own attention stands in for it. This says nothing about AITER.")
    return lines


def progress_word(result: dict[str, Any], done: int, planned: int, elapsed: float) -> str:
    """What a verbose run shows of a result: `PASS bound 0.38 noise 0.92, 12/52, 1m10s left`."""
    word = result["status"]
    if "bound" in result:
        word += f" bound {result['bound']:.2g} noise {result['noise']:.2g}"
    left = elapsed / done * (planned - done)
    return f"{word}, {done}/{planned}" + (f", {duration(left)} left" if done < planned else "")


def duration(seconds: float) -> str:
    """`48s`, `1m10s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def counted(ids: Collection[str], which: str = "") -> str:
    """`59 cases and 1 relation`: how many checks of each kind there are."""
    parts = [f"{len(some)} {which}{kind[:-1] if len(some) == 1 else kind}" for kind, some in _by_kind(ids) if some]
    return " and ".join(parts)


def _by_kind(ids: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    yield "cases", [check for check in ids if "/" not in check]
    yield "relations", [check for check in ids if "/" in check]


def _of_planned(ids: Collection[str], planned: Collection[str]) -> str:
    """`2 of 59 cases and 0 of 12 relations`."""
    every = dict(_by_kind(planned))
    return " and ".join(f"{len(some)} of {len(every[kind])} {kind}" for kind, some in _by_kind(ids) if every[kind])


def footer_lines(books: Bookkeeper) -> list[str]:
    """What came of the run: counts, reasons, how close the passes came to a limit, the verdict in words."""
    counts, results = books.counts, books.results
    ran = [check for check, r in results.items() if r["status"] not in (Status.NOT_RUN, Status.UNSUPPORTED)]
    shard = f", shard {books.plan.shard}" if books.plan.shard else ""
    lines = [f"{books.system.name}{shard}: {_of_planned(ran, books.planned)} run: " + ", ".join(
        f"{counts[status]} {status}" for status in Status if counts[status])]  # fmt: skip
    for status in (Status.UNSUPPORTED, Status.NOT_RUN):
        lines += _reasons(results.values(), status)
    by_path = defaultdict(list)  # a relation's figures are of a difference, and have nothing to do with a case's
    for result in results.values():
        if result["status"] == Status.PASS and "bound" in result:
            by_path[" of relations" if "relation" in result else "", result.get("path", "")].append(result)
    for (kind, path), some in sorted(by_path.items()):
        largest = ", ".join(
            f"{shown} {max(r[key] for r in some if key in r):.3g}"
            for key, shown in FIGURES.items()
            if any(key in r for r in some)
        )
        lines.append(f"largest among {len(some)} passes{kind}{' on ' + path if path else ''}: {largest}")
    if books.writer:
        lines.append(f"record: {books.writer.path}")
    return [*lines, _verdict(books)]


def _reasons(results: Any, status: Status) -> list[str]:
    reasons: dict[str, int] = defaultdict(int)
    for result in results:
        if result["status"] == status:
            reasons[result.get("reason", "")] += 1
    return [f"{count} {status}: {reason}" for reason, count in reasons.items()]


def _verdict(books: Bookkeeper) -> str:
    if not books.complete:
        lacking = [check for check in books.planned if check not in books.results]
        return f"INCOMPLETE: {counted(lacking, 'planned ')} {'has' if len(lacking) == 1 else 'have'} no result."
    if not books.anything_ran:
        return "NOTHING RAN."
    failed = [check for check, result in books.results.items() if not Status(result["status"]).conformant]
    if failed:
        return f"NOT CONFORMANT: {_of_planned(failed, books.planned)} fail."
    return "CONFORMANT."
