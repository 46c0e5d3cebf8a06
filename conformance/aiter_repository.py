"""AITER's git repository: which commit a ref names, which version that is, and an export of its kernels."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

KERNELS = "aiter/ops/triton"
"""The folder that makes a tree an AITER tree."""

EXPORTED = (KERNELS, "aiter/ops/__init__.py", "aiter/jit/__init__.py", "aiter/jit/utils", "aiter/utility",
            "aiter/ops/mha.py", "aiter/ops/attention.py")  # fmt: skip
"""All that the Triton kernels import of AITER, in every version; and where kernels are declared that need a build."""

UNKNOWN = "unknown"

_VERSION_TAGS = "v[0-9]*"
# Part of every cache path: to be raised when EXPORTED changes, so that no older export is taken for a current one.
_EXPORT_FORMAT = "aiter-2"


class AiterNotFound(Exception):
    """No AITER where it was looked for; the message is one sentence that says what is missing."""


@dataclass(frozen=True)
class Identity:
    """Which AITER a tree is: PEP 440 version or "unknown", full commit or "", and git's own description or ""."""

    version: str = UNKNOWN
    commit: str = ""
    description: str = ""


@dataclass(frozen=True)
class Repository:
    """A git repository at `path`: bare, a `.git` folder, or a working tree."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Repository | None:
        """The repository that `path` itself is, not one that it merely lies in; None if it is none."""
        is_git_folder = (path / "HEAD").is_file() and (path / "objects").is_dir()
        return cls(path) if is_git_folder or (path / ".git").exists() else None

    @property
    def has_working_tree(self) -> bool:
        return (self.path / ".git").exists()

    def commit(self, ref: str) -> str:
        """The full id of the commit that `ref` (tag, branch or commit) names; AiterNotFound if it names none."""
        found = self._run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
        if found.returncode:
            # A refusal (of a repository that another user owns, say) explains itself; a mere miss is silent.
            reason = _first_line(found.stderr)
            raise AiterNotFound(f"{self.path} has no commit {ref!r}" + (f": {reason}" if reason else ""))
        return found.stdout.decode().strip()

    def identity(self, commit: str) -> Identity:
        """Version and description of a commit."""
        return Identity(self._version(commit, dirty=False), commit, self._describe(commit))

    def working_tree_identity(self) -> Identity:
        """Version and description of the files as they lie in the working tree, uncommitted changes included."""
        commit = self.commit("HEAD")
        dirty = self._git("describe", "--always", "--dirty", "--exclude", "*").endswith("-dirty")
        description = self._describe(commit) + ("-dirty" if dirty else "")
        return Identity(self._version(commit, dirty), commit, description)

    def export(self, commit: str, identity: Identity, cache: Path) -> Path:
        """The folder that holds `aiter/` as of `commit`: in the cache, or put there first, whole or not at all."""
        target = cache / _EXPORT_FORMAT / commit
        if not target.is_dir():
            archive = self._archive(commit)
            try:
                _unpack(archive, identity, target)
            except OSError as refused:
                raise AiterNotFound(f"AITER {commit[:7]} cannot be exported to {target}: {refused}") from refused
        elif read_identity(target) != identity:  # tagged since
            with suppress(OSError):  # in a cache of someone else's, its note stays as it is
                write_identity(target, identity)
        return target

    def versions_around(self, commit: str) -> tuple[frozenset[Version], frozenset[Version]]:
        """The tagged versions that a commit contains, its own included, and those later ones that contain it."""
        behind = frozenset(self._tagged_versions(commit, "--merged"))
        return behind, self.versions_with(commit) - behind

    def contains(self, commit: str, other: str) -> bool:
        """Is `other` the commit, or behind it?"""
        return self._run("merge-base", "--is-ancestor", other, commit, check=False).returncode == 0

    def versions_with(self, commit: str) -> frozenset[Version]:
        """The tagged versions that contain a commit."""
        return frozenset(self._tagged_versions(commit, "--contains"))

    def versions(self) -> frozenset[Version]:
        """All that have a tag."""
        return frozenset(filter(None, map(_version, self._git("tag", "--list", _VERSION_TAGS).splitlines())))

    def version_tags(self) -> dict[str, Version]:
        """All tags that name a version, in the order of versions."""
        tags = {tag: _version(tag) for tag in self._git("tag", "--list", _VERSION_TAGS).splitlines()}
        return dict(sorted(((tag, version) for tag, version in tags.items() if version), key=lambda one: one[1]))

    def tags_on_the_way(self, start: str, end: str) -> frozenset[str]:
        """The tags that `end` contains, and `start` does not."""
        return frozenset(self._git("tag", "--merged", self.commit(end), "--no-merged", self.commit(start)).splitlines())

    def commits_on_the_way(self, start: str, end: str) -> list[str]:
        """The commits that `end` contains, and `start` does not, and that change a kernel; the oldest first.

        What was merged counts as one commit, the merge.
        """
        span = f"{self.commit(start)}..{self.commit(end)}"
        return self._git("rev-list", "--first-parent", "--reverse", span, "--", *EXPORTED).splitlines()

    def _archive(self, commit: str) -> bytes:
        held = self._git("ls-tree", "--name-only", commit, "--", *EXPORTED).splitlines()
        if KERNELS not in held:
            what = f"commit {commit[:7]} of {self.path}"
            raise AiterNotFound(f"{what} holds no {KERNELS}: it is not AITER, or older than its kernels")
        return self._run("archive", "--format=tar", commit, "--", *held).stdout

    def _version(self, commit: str, dirty: bool) -> str:
        """The version that setuptools_scm, which AITER builds with, derives: the tag's own, or a guess at the next one.

        A tag is never guessed from a branch or a date: without a version tag behind the commit the version is unknown.
        """
        tagged = self._tagged_versions(commit)
        if tagged and not dirty:
            return str(max(tagged))
        described = self._describe(commit)
        if not described:
            return UNKNOWN
        tag, distance, node = described.rsplit("-", 2)
        # Of several tags on one commit git may name a release candidate; what follows it follows the final release.
        release = max(self._tagged_versions(self.commit(tag)))
        return f"{next_version(release)}.dev{distance}+{node}{'.dirty' if dirty else ''}"

    def _tagged_versions(self, commit: str, which: str = "--points-at") -> list[Version]:
        tags = self._git("tag", which, commit, "--list", _VERSION_TAGS).splitlines()
        return [version for version in map(_version, tags) if version]

    def _describe(self, commit: str) -> str:
        """`git describe` by version tags alone, `v0.1.14-rc0-915-ge4048607a5`; "" where no such tag is behind."""
        tags = self._git("tag", "--list", _VERSION_TAGS).splitlines()
        no_versions = [argument for tag in tags if not _version(tag) for argument in ("--exclude", tag)]
        found = self._run("describe", "--tags", "--long", "--match", _VERSION_TAGS, *no_versions, commit, check=False)
        return found.stdout.decode().strip() if found.returncode == 0 else ""

    def _git(self, *arguments: str) -> str:
        return self._run(*arguments).stdout.decode().strip()

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        # Hooks run with GIT_DIR and its like set, which would point git at another repository than the one asked for.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        try:
            command = ["git", "-C", str(self.path), *arguments]
            done = subprocess.run(command, capture_output=True, check=False, env=environment)
        except FileNotFoundError as absent:
            raise AiterNotFound(f"git is not installed, and {self.path} is a git repository") from absent
        if check and done.returncode:
            raise AiterNotFound(f"git {arguments[0]} failed in {self.path}: {_first_line(done.stderr)}")
        return done


def write_identity(root: Path, identity: Identity) -> None:
    """Notes in `source.json` what the exported tree at `root` is, so that it says so wherever it is carried."""
    draft = root / f"source.json.{os.getpid()}"
    draft.write_text(json.dumps(asdict(identity), indent=2) + "\n")
    draft.replace(root / "source.json")


def read_identity(root: Path) -> Identity | None:
    """What `source.json` says of the exported tree at `root`; None without a usable one."""
    try:
        noted = json.loads((root / "source.json").read_text())
        return Identity(str(noted["version"]), str(noted["commit"]), str(noted["description"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unpack(archive: bytes, identity: Identity, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            # The filter came with Python 3.11.4. What git wrote holds neither absolute paths nor devices anyway.
            if hasattr(tarfile, "data_filter"):
                files.extractall(draft, filter="data")
            else:
                files.extractall(draft)
        write_identity(draft, identity)
        draft.chmod(0o755)
        draft.rename(target)
    except OSError:
        # Another process may have been first; its export is the same as ours.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _version(tag: str) -> Version | None:
    try:
        return Version(tag)
    except InvalidVersion:
        return None


def next_version(release: Version) -> str:
    """The release that a development version after `release` leads to: setuptools_scm's guess-next-dev."""
    if release.dev is not None:
        return release.base_version
    head, last = re.fullmatch(r"(.*?)(\d+)", release.public, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{head}{int(last) + 1}"


def _first_line(message: bytes) -> str:
    return message.decode(errors="replace").strip().split("\n")[0]
