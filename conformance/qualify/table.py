"""Versions by features: what every version that was tried comes to on each row that a user thinks in. Prints nothing.

A table is of one backend on one target with one torch and one Triton: under another Triton an AITER is another thing.
What was built for a GPU that is not there, with the same torch and Triton, is a row of it: `builds for gfx942`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conformance import features
from conformance.check import Check
from conformance.features import Feature
from conformance.matrix.cells import Came, Cell, State, matrix
from conformance.matrix.columns import Column, System, joined, order
from conformance.qualify.claims import claimed
from conformance.qualify.defects import Defect, OfVersion, defects
from conformance.record import Record, read
from conformance.status import Status

TRITONS = ("triton", "pytorch-triton-rocm")
"""The distributions that Triton comes in."""

Asked = Callable[[str], Collection[str]]
"""Ids of the checks that were asked for, on a kind of target."""

Found = tuple[Path, Record]
"""A record, and the file that it is from, or would be in."""


@dataclass(frozen=True)
class Setting:
    """What the versions of one table have in common. `package` is what else the backend is a version of."""

    backend: str
    package: str
    target: str  # "" where kernels were built for others, and run on none
    device: str
    torch: str
    triton: str

    @classmethod
    def of(cls, record: Record) -> Setting:
        """As its record has it."""
        system, environment = System.of(record), record.header["environment"]
        triton = next((environment[name] for name in TRITONS if name in environment), "")
        return cls(system.backend, system.package, system.target, system.device, environment.get("torch", ""), triton)

    @property
    def described(self) -> str:
        """`aiter, interpreter:gfx942, torch 2.13.0+cpu, Triton 3.7.1`."""
        backend = " ".join(filter(None, (self.backend, self.package)))
        versions = [
            f"{name} {version}" for name, version in (("torch", self.torch), ("Triton", self.triton)) if version
        ]
        return ", ".join(filter(None, (backend, self.target, self.device, *versions)))

    @property
    def builder(self) -> Setting:
        """What built for a GPU that is not there has in common with this."""
        return replace(self, target="", device="")


@dataclass(frozen=True)
class Tried:
    """One version of a table: an AITER, how much of what was asked for it has, and why it has none of it."""

    name: str  # as a heading has it: `0.1.16`, with the commit where another has the same
    version: str
    commit: str
    counts: Counter[State]  # of its checks that ran on the table's target, or were built
    complete: bool
    cause: str = ""  # why nothing of it could be run: it does not import, or its run was cut short

    @property
    def anything_ran(self) -> bool:
        return any(state not in (State.NOT_RUN, State.REFUSED) for state in self.counts)

    @property
    def fails(self) -> bool:
        """Is a check red that no declared gap expects, explained or not?"""
        return bool(self.counts[State.UNEXPLAINED] or self.counts[State.FINDING])


@dataclass(frozen=True)
class Row:
    """A feature, its cell in each version, and the span of versions in which it works."""

    name: str
    meaning: str
    cells: tuple[Cell, ...]
    claim: str


@dataclass(frozen=True)
class Table:
    """Rows by feature over versions, in the order of versions; a row that no check has is left out.

    `defects` are those that were seen on the table's target.
    """

    setting: Setting
    versions: list[Tried]
    rows: list[Row]
    defects: list[Defect]


def of_paths(paths: Iterable[Path], asked: Asked | None = None) -> list[Table]:
    """The tables of records. Raises BadRecord: for a file that is none, and for what cannot stand side by side."""
    return tables([(path, read(path)) for path in dict.fromkeys(paths)], asked)


def tables(records: Sequence[Found], asked: Asked | None = None) -> list[Table]:
    """One for each setting, in the order in which records name them; of the checks asked for, or of all there are.

    What was asked for and has no result is NOT RUN. Raises BadRecord.
    """
    columns: dict[Setting, list[Column]] = {}
    for setting, some in _by_setting(records).items():
        columns[setting] = [_asked(column, asked) for column in joined(some)]
    running = {setting: some for setting, some in columns.items() if not _builds(setting)}
    built: dict[Setting, dict[str, list[Column]]] = defaultdict(dict)
    for setting, some in columns.items():
        if _builds(setting):
            built[setting.builder][setting.target.partition(":")[2]] = some
    alone = [setting for setting in built if setting not in {other.builder for other in running}]
    return [_table(setting, some, built.get(setting.builder, {})) for setting, some in running.items()] + [
        _table(setting, [], built[setting]) for setting in alone
    ]


def word(cell: Cell) -> str:
    """The worst status of a cell, whether or not something explains it; "" for a cell without a check."""
    if cell.worst or cell.state is None:
        return cell.worst
    return {State.NOT_RUN: Status.NOT_RUN, State.REFUSED: Status.UNSUPPORTED}.get(cell.state, Status.PASS)


def cause(columns: Iterable[Column]) -> str:
    """Why a version has no result at all: the reason of most; "" where it has one."""
    results = [result for column in columns for result in column.results.values()]
    if any(result["status"] != Status.NOT_RUN for result in results):
        return ""
    reasons = Counter(result.get("reason", "") for result in results)
    return reasons.most_common(1)[0][0] if reasons else "not run yet"


# -- parts -------------------------------------------------------------------------------------------------------------


def _by_setting(records: Iterable[Found]) -> dict[Setting, list[Found]]:
    by_setting: dict[Setting, list[Found]] = defaultdict(list)
    for path, record in records:
        by_setting[Setting.of(record)].append((path, record))
    return by_setting


def _builds(setting: Setting) -> bool:
    return setting.target.partition(":")[0] == "compile"


def _asked(column: Column, asked: Asked | None) -> Column:
    """With the checks asked for alone, and each of them."""
    if asked is None:
        return column
    ids = asked(column.system.place.kind)
    results = {check: column.results[check] for check in ids if check in column.results}
    lacking = {"status": str(Status.NOT_RUN), "reason": "not run yet"}
    whole = len(results) == len(ids) and (
        column.complete or all(result["status"] != Status.NOT_RUN for result in results.values())
    )
    return replace(column, results=results | {check: lacking for check in ids if check not in results}, complete=whole)


def _table(setting: Setting, columns: list[Column], built: Mapping[str, list[Column]]) -> Table:
    everything = [column for some in (columns, *built.values()) for column in some]
    keys = _in_order(dict.fromkeys((column.system.version, column.system.commit) for column in everything))
    ran = matrix(columns).came
    rows = [(feature, _placed(keys, columns, cells)) for feature, cells in _by_feature(columns, ran)]
    for arch, some in built.items():
        came = matrix(some).came
        cells = [Cell(tuple(of_version.values())) for of_version in came]
        rows.append((features.built_for(arch), _placed(keys, some, cells)))
    here = {_key(column): (column, of_version) for column, of_version in zip(columns, ran, strict=True)}
    tried = [_tried(key, keys, [column for column in everything if _key(column) == key], here.get(key)) for key in keys]
    names = [one.name for one in tried]
    return Table(
        setting,
        tried,
        [Row(feature.name, feature.meaning, cells, claimed(feature.name, names, cells)) for feature, cells in rows],
        defects(names, [here[key][1] if key in here else None for key in keys]),
    )


def _by_feature(columns: list[Column], came: Sequence[OfVersion]) -> list[tuple[Feature, list[Cell]]]:
    """The rows that some check has, with a cell for each column."""
    checks = {name: Check.parse(name) for column in columns for name in column.results}
    return [
        (feature, [Cell(tuple(of_version[name] for name in own)) for of_version in came])
        for feature, own in features.by_feature(checks, [column.results for column in columns])
    ]


def _placed(keys: Sequence[Key], columns: Sequence[Column], cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells in the order of the versions; of a version that was not tried so, none of its checks ran."""
    some = {_key(column): cell for column, cell in zip(columns, cells, strict=True)}
    checks = dict.fromkeys(one.check for cell in cells for one in cell.came)
    lacking = Cell(tuple(Came(check, State.NOT_RUN, Status.NOT_RUN) for check in checks))
    return tuple(some.get(key, lacking) for key in keys)


def _tried(key: Key, keys: Sequence[Key], columns: Sequence[Column], here: tuple[Column, OfVersion] | None) -> Tried:
    """`columns` are those of the version, built ones too; that on the table's target, if it is there, counts alone."""
    version, commit = key
    if here is None:
        counted, states = columns, [one.state for of_version in matrix(columns).came for one in of_version.values()]
    else:
        counted, states = [here[0]], [here[1][name].state for name in here[0].results]
    public = version.partition("+")[0] or "unknown"
    alike = sum((other.partition("+")[0] or "unknown") == public for other, _ in keys) > 1
    return Tried(
        f"{public} {commit[:7]}".strip() if alike else public, version, commit, Counter(states),
        all(column.complete for column in columns), cause(counted),
    )  # fmt: skip


Key = tuple[str, str]
"""Version and commit."""


def _key(column: Column) -> Key:
    return column.system.version, column.system.commit


def _in_order(keys: Iterable[Key]) -> list[Key]:
    """By version; those that have none last, as they came."""
    return sorted(keys, key=lambda key: order(key[0]))
