"""Merging: one record of several runs of one plan, of its shards or of any other disjoint parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from conformance.plan import joint
from conformance.record import BadRecord, Record, Writer, check_id, read
from conformance.summary import in_words, verdict

SAME: dict[str, Callable[[Record], Any]] = {
    "backend": lambda record: record.run.get("backend"),
    "AITER": lambda record: [record.run.get("aiter", {}).get(key) for key in ("version", "commit")],
    "target": lambda record: record.target,
    "plan": lambda record: record.run["plan"]["title"],
    "version of the checks": lambda record: record.run["plan"]["digest"],
}
"""What all runs of one plan have in common."""


def merged(paths: Sequence[Path]) -> Record:
    """The record of what several runs found together; complete if the whole plan has results.

    Raises BadRecord for a file that is none, for runs that are not of one plan or not of one system, and for one check
    with two different results. A record that was cut short gives what it has.
    """
    records = [read(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        plan = record.run.get("plan")
        if not isinstance(plan, dict) or not {"title", "checks", "digest"} <= plan.keys():
            raise BadRecord(f"{path} does not say what plan its run was a part of")
    _check_that_they_belong_together(paths, records)
    results: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path, record in zip(paths, records, strict=True):
        for result in record.cases:
            before, one = results.setdefault(check_id(result), (path, result))
            if _found(one) != _found(result):
                raise BadRecord(f"{before} and {path} have different results of {check_id(result)}")
    cases = [result for _, result in results.values()]
    plan = {name: value for name, value in records[0].run["plan"].items() if name != "shard"}
    parts = [part for record in records for part in parts_of(record)]
    header = records[0].header | {
        "started": min(record.header.get("started", "") for record in records),
        "planned": plan["checks"],
        "run": records[0].run | {"plan": plan},
        "environment": next((record.header["environment"] for record in records if record.header["environment"]), {}),
        "parts": parts,
    }
    complete = joint(result.get("digest", "") for result in cases) == plan["digest"]
    seconds = [part["seconds"] for part in parts if part["seconds"] is not None]
    return Record(header, cases, complete, max(seconds, default=None))


def write(record: Record, path: Path) -> None:
    """Write a merged record, with a footer if it is complete. Raises BadRecord if it cannot, or if there is a file."""
    header = {name: value for name, value in record.header.items() if name != "kind"}
    writer = Writer(path)
    writer.header(**header)
    for result in record.cases:
        writer.case(**{name: value for name, value in result.items() if name != "kind"})
    if record.complete:
        writer.footer(Counter(result["status"] for result in record.cases), record.seconds or 0.0)
    writer.close()
    if writer.failed:
        raise BadRecord(f"cannot record to {path}: {writer.failed}")


def lines(record: Record) -> list[str]:
    """What a merged record holds, and the verdict, in words."""
    parts, planned = record.header["parts"], record.header["planned"]
    shards = [part["shard"] for part in parts if part["shard"]]
    said = [f"{record.name} ({record.target}), {record.run['plan']['title']}: {len(parts)} runs"
            + (f", shards {', '.join(sorted(set(shards)))}" if shards else "")]  # fmt: skip
    said.append(f"{len(record.cases)} of {planned} checks: {', '.join(in_words(record.counts)) or 'no result'}")
    return [*said, _verdict(record, _missing(shards))]


def _verdict(record: Record, missing: list[str]) -> str:
    if record.complete:
        return verdict({check_id(result): result for result in record.cases})
    why = f"; no record of shard {', '.join(missing)}" if missing else ""
    planned = record.header["planned"]
    return f"INCOMPLETE: {planned - len(record.cases)} of {planned} checks have no result{why}."


def anything_ran(record: Record) -> bool:
    """Did the system under test answer a single check?"""
    return any(status.ran for status in record.counts)


def _missing(shards: Iterable[str]) -> list[str]:
    """Shards of as many as there are of which no record is here; none where there are no shards."""
    here = set(shards)
    return [name for of in sorted({shard.partition("/")[2] for shard in here}, key=int)
            for number in range(1, int(of) + 1) if (name := f"{number}/{of}") not in here]  # fmt: skip


def _check_that_they_belong_together(paths: Sequence[Path], records: Sequence[Record]) -> None:
    for path, record in zip(paths[1:], records[1:], strict=True):
        for what, of in SAME.items():
            if (one := of(records[0])) != (other := of(record)):
                raise BadRecord(
                    f"{paths[0]} and {path} are not parts of one run: their {what} is {_shown(one)} and {_shown(other)}"
                )


def _shown(value: Any) -> str:
    return " ".join(str(part) for part in value if part) or "none" if isinstance(value, list) else str(value)


def parts_of(record: Record) -> list[dict[str, Any]]:
    """The runs that a record is of, as a merged header has them."""
    return record.header.get("parts", [_part(record)])


def _part(record: Record) -> dict[str, Any]:
    """What the merged header keeps of one run."""
    header = record.header
    return {
        "shard": record.run["plan"].get("shard"),
        "started": header.get("started", ""),
        "seconds": record.seconds,
        "results": len(record.cases),
        "environment": header["environment"],
    }


def _found(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what may differ from one run to the next: its time, and how a worker died."""
    return {name: value for name, value in result.items() if name not in ("seconds", "reason")}
