"""Has an AITER reached a version: yes, no, or can it not be told?

* A release, candidate or post release is where PEP 440 puts it, and so is one installed with a local version of it.
* Any other commit of a repository at hand is placed by ancestry: it has reached a version if it contains the tag of
  that version or of a later one, and it has not if that tag or an earlier one contains it. Its version text says less:
  0.1.21.dev3, on the main branch, sorts after 0.1.20.post1, whose fix may lie on a release branch alone. A commit that
  neither contains a tag nor is contained in it has gone another way, and no order is guessed.
* Without a repository, or for a version that has no tag in it, a development version counts towards the next release,
  as setuptools_scm has it: 0.1.15 < 0.1.16.dev3 < 0.1.16. Only whether it holds post releases of the one before cannot
  be told.
* An AITER that knows neither version nor repository has reached the beginning, and nothing is known of the rest.
"""

from __future__ import annotations

from functools import cache

from packaging.version import Version

from conformance.aiter_repository import UNKNOWN, Repository, next_version
from conformance.aiter_source import AiterSource
from conformance.expectations.entries import BEGINNING, Expectation


def within(expectation: Expectation, source: AiterSource | None) -> bool | None:
    """Is an AITER among the versions of an expectation? None if that cannot be told."""
    started = reached(source, expectation.since)
    ended = False if expectation.until is None else reached(source, expectation.until)
    if started is False or ended is True:
        return False
    return None if started is None or ended is None else True


def reached(source: AiterSource | None, version: Version) -> bool | None:
    """Is an AITER at `version` or after it? None if that cannot be told."""
    if version == BEGINNING:
        return True
    if source is None:
        return None
    own = None if source.version == UNKNOWN else Version(Version(source.version).public)
    if source.repository and source.commit and (own is None or own.is_devrelease):
        return _by_ancestry(source.repository, source.commit, own, version)
    return _by_text(own, version)


def _by_ancestry(repository: Repository, commit: str, own: Version | None, version: Version) -> bool | None:
    behind, ahead, known = _tags(repository, commit)
    after, before = any(tag >= version for tag in behind), any(tag <= version for tag in ahead)
    if after != before:
        return after
    return None if version in known else _by_text(own, version)


@cache
def _tags(repository: Repository, commit: str) -> tuple[frozenset[Version], frozenset[Version], frozenset[Version]]:
    """Versions that a commit contains, those that contain it, and all there are."""
    return *repository.versions_around(commit), repository.versions()


def _by_text(own: Version | None, version: Version) -> bool | None:
    if own is None:
        return None
    if own.is_devrelease and not own.is_postrelease and version.is_postrelease:
        release = Version(version.base_version)
        if next_version(release) == own.base_version:
            return None
    return own >= version
