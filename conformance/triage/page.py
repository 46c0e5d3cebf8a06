"""A triaged record as a person reads it, in a terminal or in Markdown, and as JSON: a few lines for each cluster."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from conformance.matrix import State
from conformance.status import Status
from conformance.triage.clusters import Cluster
from conformance.triage.examined import Examined
from conformance.triage.owners import Owner

MOST_PATHS, MOST_KERNELS, MOST_LOOKS = 3, 4, 2
"""So many are shown, and the rest counted."""

NOTHING = "nothing that is known explains it"


@dataclass(frozen=True)
class Triaged:
    """A cluster, whose it is, what goes on from it, and what came of its representative, if that was run."""

    cluster: Cluster
    owners: Sequence[Owner]
    commands: Sequence[tuple[str, str]]
    examined: Examined | None = None


@dataclass(frozen=True)
class Page:
    """All clusters, the gravest first; `described` is the system of the record."""

    described: str
    counts: Counter[Status]
    """All checks, by what came of them."""
    declared: int
    """Failures as a declared gap has them, which are no failures of the run's."""
    complete: bool
    triaged: Sequence[Triaged] = ()
    remarks: Sequence[str] = ()
    """What a reader must know of how this was made."""

    @property
    def anything_ran(self) -> bool:
        return any(status.ran for status in self.counts)

    @property
    def failures(self) -> int:
        return sum(len(one.cluster.failures) for one in self.triaged)

    @property
    def verdict(self) -> str:
        unknown = sum(one.cluster.note is None and not one.cluster.closed for one in self.triaged)
        said = (
            f"{_many(self.failures, 'failure')} in {_many(len(self.triaged), 'cluster')}, {unknown or 'none'} of them "
            "unexplained"
        )
        if not self.complete:
            return f"INCOMPLETE: the record was cut short, or a shard is missing; {said}."
        if not self.anything_ran:
            return "NOTHING RAN."
        return f"TRIAGED: {said}." if self.triaged else "NOTHING FAILED."


def as_text(page: Page) -> Iterator[str]:
    """Headed lines, as `explain` has them."""
    yield from _head(page)
    for number, one in enumerate(page.triaged, 1):
        yield ""
        yield f"{number:<3} {_title(one.cluster, page)}"
        yield from (f"    {word:<8} {line}" for word, line in _lines(one))
        yield from (f"    {word:<8} {line}" for word, line in one.commands)
    yield from ("", page.verdict)


def as_markdown(page: Page) -> Iterator[str]:
    """For an issue or a pull request: a heading for each cluster, a list, and its commands."""
    yield "\n\n".join(_head(page))
    for number, one in enumerate(page.triaged, 1):
        yield from ("", f"### {number}. {_title(one.cluster, page)}", "")
        yield from (f"* {word}: {_marked(word, line)}" for word, line in _lines(one))
        yield from ("", "```", *(line for _, line in one.commands), "```")
    yield from ("", page.verdict)


def as_json(page: Page) -> Iterator[str]:
    """Everything, with the ids of all failures of a cluster."""
    yield json.dumps({
        "system": page.described, "counts": page.counts, "declared": page.declared, "complete": page.complete,
        "remarks": list(page.remarks), "verdict": page.verdict,
        "clusters": [_object(one) for one in page.triaged],
    }, indent=1)  # fmt: skip


FORMATS: dict[str, Callable[[Page], Iterator[str]]] = {"text": as_text, "markdown": as_markdown, "json": as_json}


# -- parts -------------------------------------------------------------------------------------------------------------


def _head(page: Page) -> Iterator[str]:
    declared = f"; {page.declared} more fail as declared" if page.declared else ""
    not_run = f"; {page.counts[Status.NOT_RUN]} were not run" if page.counts[Status.NOT_RUN] else ""
    yield f"{page.described}: {page.failures} of {_many(page.counts.total(), 'check')} fail{declared}{not_run}"
    yield from page.remarks


def _title(cluster: Cluster, page: Page) -> str:
    words = " and ".join(f"{count} {word}" for word, count in cluster.words.most_common())
    return f"{words}: {len(cluster.failures) / page.failures:.0%} of the failures, on {_paths(cluster)}"


def _paths(cluster: Cluster) -> str:
    names = [f"{path} ({count})" if len(cluster.paths) > 1 else path for path, count in cluster.paths.most_common()]
    return ", ".join(names[:MOST_PATHS]) + (f" and {len(names) - MOST_PATHS} more" if len(names) > MOST_PATHS else "")


def _lines(one: Triaged) -> Iterator[tuple[str, str]]:
    """A word and what it says, from the cause to the owner."""
    cluster, examined = one.cluster, one.examined or Examined()
    yield "cause", _cause(cluster)
    asked = [(word, line) for word, line in examined.lines if word in ("looks", "or", "partly")]
    if not asked:
        told = sum(cluster.looks.values())
        for looks, count in cluster.looks.most_common(MOST_LOOKS):
            yield "looks", f"{looks} (in the record, of {count} of {told})"
    yield from asked
    if common := _common(cluster):
        yield "common", common
    first = cluster.candidates[0]
    shown = examined.check or first.check.id
    yield "case", shown
    if reason := examined.reason or first.result.get("reason", ""):
        yield "what", reason
    yield from ((word, line) for word, line in examined.lines if (word, line) not in asked)
    if examined.smallest:
        yield "smallest", f"{examined.smallest} ({_many(examined.runs, 'run')})"
    yield from (("note", note) for note in examined.notes)
    for owner in one.owners:
        yield "owner", owner.lines(MOST_KERNELS)[0]
        yield from (("kernels", line) for line in owner.lines(MOST_KERNELS)[1:])


def _cause(cluster: Cluster) -> str:
    note = cluster.note
    if cluster.closed:
        return f"AITER closed this gap: delete {cluster.closed}"
    if note is None:
        return NOTHING
    said = f"{'known' if note.state is State.FINDING else 'declared since'}: {note.reason} ({note.issue})"
    others = sum(failure.note is None for failure in cluster.failures)
    return said + (f"; {others} of these fail beside it, and nothing else explains them" if others else "")


def _common(cluster: Cluster) -> str:
    """`all: padded batch; none: window left; 3 of 433 that pass on unified are so too`."""
    common = cluster.common
    if not common.traits:
        return ""
    total = len(cluster.telling)
    who = ("all", "none") if not common.without else (f"{total - common.without} of {total}", "without")
    parts = [f"{word}: {', '.join(names)}" for word, present in zip(who, (True, False), strict=True)
             if (names := [trait.feature.name for trait in common.traits if trait.present is present])]  # fmt: skip
    alike = f"{common.alike or 'none'} of {common.passing} that pass on {' and '.join(sorted(cluster.kernels))}"
    return f"{'; '.join(parts)}; {alike} {'is' if common.alike == 1 else 'are'} so too"


def _marked(word: str, line: str) -> str:
    return f"`{line}`" if word in ("case", "owner", "kernels") else line


def _object(one: Triaged) -> dict[str, object]:
    cluster, note = one.cluster, one.cluster.note
    return {
        "statuses": dict(cluster.words),
        "paths": dict(cluster.paths),
        "signature": str(cluster.signature),
        "known": {"reason": note.reason, "issue": note.issue} if note else None,
        "looks": dict(cluster.looks),
        "common": {
            "traits": [str(trait) for trait in cluster.common.traits],
            "lacking": cluster.common.without,
            "passing": cluster.common.passing,
            "passing alike": cluster.common.alike,
        },
        "representative": cluster.candidates[0].check.id,
        "examined": asdict(one.examined) if one.examined else None,
        "owners": [asdict(owner) for owner in one.owners],
        "commands": dict(one.commands),
        "checks": [failure.check.id for failure in cluster.failures],
    }


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
