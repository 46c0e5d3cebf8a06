"""Versions to qualify: sources of AITER as they are named, with ranges of a repository expanded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.aiter_repository import KERNELS, AiterNotFound, Repository, read_identity
from conformance.aiter_source import AiterSource, locate, path_and_ref, required

TAG = "tag"


class BadVersions(Exception):
    """Versions that cannot be told from the words that name them, in one sentence."""


@dataclass(frozen=True)
class Version:
    """One AITER to qualify."""

    spec: str
    """What `--aiter` takes to name it again."""
    source: AiterSource
    files: str = ""
    """A digest of its kernels, where they are those of no commit: a tree may change between two runs."""

    @property
    def key(self) -> str:
        """What results must be of to be this version's."""
        return self.files or self.source.commit


def versions(words: Sequence[str], every: str) -> tuple[list[Version], list[str]]:
    """Each version that is named, once, as they come; and what is said of those in ranges that hold no AITER.

    A word is PATH, REPOSITORY@REF, or REPOSITORY@A..B, of which `every` says what is taken: "tag", or each so many
    commits that change a kernel; `@REF` alone is of the repository named last. Raises BadVersions and AiterNotFound.
    """
    found: dict[str, Version] = {}
    notes: list[str] = []
    for spec, is_of_range in _expanded(words, every):
        try:
            source = required(locate(spec))
        except AiterNotFound as absent:
            if not is_of_range:
                raise
            notes.append(f"left out: {absent}")
            continue
        version = Version(spec, source, _files(source))
        found.setdefault(version.key, version)
    return list(found.values()), notes


def _expanded(words: Sequence[str], every: str) -> Iterator[tuple[str, bool]]:
    """Each source that is named, and whether it comes from a range."""
    repository = ""
    for word in words:
        if word.startswith("@") and not repository:
            raise BadVersions(f"{word} is of the repository named before it, and there is none: write REPOSITORY{word}")
        spec = repository + word if word.startswith("@") else word
        path, ref = path_and_ref(spec)
        if ref is None:
            yield spec, False
            continue
        repository = spec.removesuffix(f"@{ref}")
        start, dots, end = ref.partition("..")
        if not dots:
            yield spec, False
            continue
        if not start or not end:
            raise BadVersions(f"{word} is no range: write A..B, with a tag, branch or commit on either side")
        if (at := Repository.at(path)) is None:
            raise AiterNotFound(f"{path} is not a git repository, so it has no range {ref!r}")
        for commit in dict.fromkeys(_range(at, start, end, every)):
            yield f"{repository}@{commit}", True


def _range(repository: Repository, start: str, end: str, every: str) -> Iterable[str]:
    """From `start` to `end`, both with them."""
    for ref in (start, end):
        repository.commit(ref)
    if every != TAG:
        commits = repository.commits_on_the_way(start, end)
        if not commits:
            raise BadVersions(f"from {start} to {end} no commit changes a kernel")
        return [start, *commits[int(every) - 1 :: int(every)], end]
    tags = repository.version_tags()
    if start in tags and end in tags:  # releases may lie on branches of their own: none contains another
        if tags[start] > tags[end]:
            raise BadVersions(f"{start}..{end} is no range: {end} is the older version")
        return [tag for tag, version in tags.items() if tags[start] <= version <= tags[end]]
    between = repository.tags_on_the_way(start, end)
    return [start, *(tag for tag in tags if tag in between), end]


def _files(source: AiterSource) -> str:
    """Nothing for a commit as it was exported."""
    if source.origin == "repository" or read_identity(source.root) is not None:
        return ""
    digest = hashlib.sha256()
    for file in sorted((source.root / KERNELS).rglob("*")):
        if file.is_file() and file.suffix in (".py", ".json"):
            digest.update(f"{_relative(file, source.root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()
