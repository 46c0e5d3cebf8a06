"""The lines a run prints about itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from conformance import __version__
from conformance.record import fails
from conformance.status import Status
from conformance.system import System
from conformance.targets.built_kernel import BuiltKernel

if TYPE_CHECKING:
    from conformance.bookkeeping import Bookkeeper

FIGURES = {"bound": "error/bound", "noise": "noise", "row_noise": "noise of a row", "lse": "lse error/bound"}
"""A result's figures, as a person reads them; the limits are in `conformance.judge`."""

KERNEL_FIGURES = {
    "lds": "largest LDS: {} bytes a workgroup",
    "vgpr_spills": "most spilled VGPRs: {}",
    "sgpr_spills": "most spilled SGPRs: {}",
    "code": "largest code: {} bytes",
}
"""A built kernel's figures that a tier is told by; the limits are in `conformance.targets.built_kernel`."""

LONGEST_NAME = 40
"""Of a kernel, as shown here: some name all their constants."""


def header_lines(system: System, title: str) -> list[str]:
    """What is about to run."""
    lines = [f"conformance {__version__}: {title}, backend {system.backend.name}, target {system.target_spec}"]
    if system.source:
        lines.append(f"AITER {system.source.described}, {system.source.root}")
    elif system.defaulted:
        lines.append("No AITER is installed: PyTorch's own attention stands in for it. This says nothing about AITER.")
    if system.only_builds:
        lines.append("Kernels are built and not run: this says nothing about their numbers.")
    return lines


def status_word(result: dict[str, Any]) -> str:
    """`ERROR`; `expected ERROR`; `PASS, not ERROR` where that was expected."""
    status = result["status"]
    if "expected" not in result:
        return status
    return f"{status}, not {result['expected']['status']}" if fails(result) else f"expected {status}"


def progress_word(result: dict[str, Any], done: int, planned: int, elapsed: float) -> str:
    """What a verbose run shows of a result: `PASS bound 0.38 noise 0.92, 12/52, 1m10s left`."""
    word = status_word(result)
    if "bound" in result:
        word += f" bound {result['bound']:.2g} noise {result['noise']:.2g}"
    left = elapsed / done * (planned - done)
    return f"{word}, {done}/{planned}" + (f", {duration(left)} left" if done < planned else "")


def duration(seconds: float) -> str:
    """`48s`, `1m10s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def in_words(counts: Mapping[Any, int]) -> list[str]:
    """`52 PASS`, `1 ERROR`: what came of how many checks, each status that did."""
    return [f"{counts[status]} {status}" for status in Status if counts.get(status)]


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
    results, gaps = books.results, _gaps(books.results.values())
    counts = books.counts - Counter(gap["status"] for gap in gaps)
    ran = [check for check, r in results.items() if Status(r["status"]).ran]
    done = "built" if books.system.only_builds else "run"
    shard = f", shard {books.plan.shard}" if books.plan.shard else ""
    lines = [f"{books.system.name}{shard}: {_of_planned(ran, books.planned)} {done}: " + ", ".join(
        in_words(counts) + _counted_gaps(gaps))]  # fmt: skip
    if books.deselected:
        lines.append(f"{books.deselected} of {len(books.plan.checks)} checks were deselected.")
    for status in (Status.UNSUPPORTED, Status.NOT_RUN):
        lines += _reasons(results.values(), status)
    if raised := sum(_declined_by_raising(result) for result in results.values()):
        lines.append(f"{raised} of {len(books.planned)} checks raised NotImplementedError, and count as declined: is "
                     "any among them that a kernel should serve?")  # fmt: skip
    lines += _expected(results.values())
    lines += _of_kernels([results[check] for check in books.planned if check in results])
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
    if books.writer and books.recorded:
        lines.append(f"record: {books.writer.path}")
    return [*lines, _verdict(books)]


def _of_kernels(results: list[dict[str, Any]]) -> list[str]:
    """How many kernels were built; and which takes most, of what, with a case that launches it."""
    cases: dict[BuiltKernel, str] = {}
    for result in results:
        for kernel in result.get("kernels", ()):
            cases.setdefault(BuiltKernel(**kernel), result["case"])
    if not cases:
        return []
    lines = [f"built {len(cases)} kernels that differ in name or figures"]
    for figure, shown in KERNEL_FIGURES.items():
        most = max(cases, key=lambda kernel: getattr(kernel, figure))
        value = getattr(most, figure)
        name = most.name if len(most.name) <= LONGEST_NAME else most.name[: LONGEST_NAME - 3] + "..."
        lines.append(f"  {shown.format(value)}" + (f" ({name} of {cases[most]})" if value else ""))
    return lines


def _reasons(results: Any, status: Status) -> list[str]:
    reasons: dict[str, int] = defaultdict(int)
    for result in results:
        if result["status"] == status:
            reasons[result.get("reason", "")] += 1
    return [f"{count} {status}: {reason}" for reason, count in reasons.items()]


def _gaps(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for result in results if "expected" in result and not fails(result)]


def _counted_gaps(gaps: list[dict[str, Any]]) -> list[str]:
    return [f"{len(gaps)} expected gap{'s' if len(gaps) > 1 else ''}"] if gaps else []


def _expected(results: Any) -> list[str]:
    """Expected gaps by their reason, then what entries of a list are wrong about."""
    gaps: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for result in results:
        if expected := result.get("expected"):
            if fails(result):
                wrong[f"{status_word(result)} as {expected['entry']} says"] += 1
            else:
                gaps[f"{status_word(result)}: {expected['reason']} ({expected['issue']})"] += 1
    return [f"{count} {what}" for some in (gaps, wrong) for what, count in some.items()]


def _declined_by_raising(result: dict[str, Any]) -> bool:
    """Not declined by the backend in its own words, but by something below it, as AITER refuses what it lacks."""
    return result["status"] == Status.UNSUPPORTED and result.get("reason", "").startswith("NotImplementedError: ")


def _verdict(books: Bookkeeper) -> str:
    if not books.complete:
        lacking = [check for check in books.planned if check not in books.results]
        return f"INCOMPLETE: {counted(lacking, 'planned ')} {'has' if len(lacking) == 1 else 'have'} no result."
    if books.writer and not books.recorded:
        return f"INCOMPLETE: cannot record to {books.writer.path} any more: {books.writer.failed}."
    return verdict(books.results, selected=bool(books.deselected))


def verdict(results: Mapping[str, dict[str, Any]], *, selected: bool = False) -> str:
    """What the results of all planned checks, by their ids, say in one line; of `selected` ones, if some were not."""
    counts = Counter(result["status"] for result in results.values())
    if not any(Status(status).ran for status in counts):
        return "NOTHING RAN."
    failed = [check for check, result in results.items() if fails(result)]
    if failed:
        return f"NOT CONFORMANT: {_of_planned(failed, results)} fail."
    gaps = _counted_gaps(_gaps(results.values()))
    if gaps and not counts[Status.PASS]:
        return f"NOTHING PASSED: {gaps[0]}."
    declined = counts[Status.UNSUPPORTED]
    return ", ".join((
        "CONFORMANT",
        *["in what was selected"] * selected,
        *[f"but for {gap}" for gap in gaps],
        *[f"{declined} of {len(results)} checks declined"] * bool(declined),
    )) + "."  # fmt: skip
