"""The commands that go on from a cluster: run, explain, shrink, repro, bisect."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import chain

from packaging.version import InvalidVersion, Version

from conformance.aiter_source import AiterSource, path_and_ref
from conformance.check import Check
from conformance.expectations.entries import BEGINNING
from conformance.expectations.findings import Finding

Options = Mapping[str, str]
"""What chooses a system, by name: `--backend`, `--target`, `--aiter`."""


def commands(
    check: Check, smallest: str, explained: bool, options: Options, source: AiterSource | None, finding: Finding | None
) -> Iterator[tuple[str, str]]:
    """Each with its word: of the smallest check where there is one, else of `check`; nothing that was done already."""
    yield "run", _command("run", options, "--case", smallest or check.id)
    builds = options.get("--target", "").startswith("compile")
    if check.relation is None and not builds and not explained:
        yield "explain", _command("explain", options, check.id)
    if not smallest:
        yield "shrink", _command("shrink", options, check.id)
    if check.relation is None and not builds and source is not None:
        yield "repro", _command("repro", options, "-o", "bundle", smallest or check.id)
    if source is not None and source.repository is not None:
        yield from _bisect(Check.parse(smallest or check.id), options, source, finding)


def _bisect(check: Check, options: Options, source: AiterSource, finding: Finding | None) -> Iterator[tuple[str, str]]:
    """Between the versions of a finding that began or ended; else back to the version before this one."""
    assert source.repository is not None
    own = _version(source)
    tags = source.repository.version_tags()
    here = next((tag for tag, version in tags.items() if version == own), source.commit)
    since, until = (finding.failure.since, finding.failure.until) if finding else (None, None)
    before = [tag for tag, version in tags.items() if own and version < (since or own) and not version.is_prerelease]
    after = [tag for tag, version in tags.items() if until and version >= until]
    if after:
        ends = ["--bad", here, "--good", after[0], "--fixed"]
    elif before and since != BEGINNING:
        ends = ["--good", before[-1], "--bad", here]
    else:
        return
    repository, _ = path_and_ref(options["--aiter"]) if "--aiter" in options else (source.repository.path, None)
    kept = {name: value for name, value in options.items() if name != "--aiter"}
    yield "bisect", _command("bisect", kept | {"--aiter": str(repository)}, *ends, check.id)


def _version(source: AiterSource) -> Version | None:
    try:
        return Version(source.version)
    except InvalidVersion:
        return None


def _command(name: str, options: Options, *words: str) -> str:
    return shlex.join(["python", "-m", "conformance", name, *chain(*options.items()), *words])
