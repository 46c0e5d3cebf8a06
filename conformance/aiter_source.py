"""Which AITER is under test (installed, a source tree, or a git repository at a ref), and its kernels' entry points."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

from conformance.aiter_loading import AiterNotLoadable, KernelAbsent, attention_modules, is_rocm_build, load_kernel
from conformance.aiter_repository import KERNELS, UNKNOWN, AiterNotFound, Identity, Repository, read_identity

__all__ = [
    "AiterNotFound",
    "AiterNotLoadable",
    "AiterSource",
    "KernelAbsent",
    "attention_modules",
    "is_rocm_build",
    "load_kernel",
    "locate",
    "path_and_ref",
    "required",
]

_DISTRIBUTIONS = ("amd-aiter", "aiter")


@dataclass(frozen=True)
class AiterSource:
    """One AITER: the files, and what they are."""

    root: Path
    """The folder that holds `aiter/`."""
    origin: str
    """"installed", "tree" or "repository"."""
    version: str
    """PEP 440 text, or "unknown"; never guessed."""
    commit: str
    """The full commit id, or "" where it is not known."""
    repository: Repository | None = field(default=None, compare=False)
    """The git repository that knows the commit, where it is at hand."""

    @property
    def described(self) -> str:
        """What a person should read: `0.1.20.post1 (de07f38, repository)`."""
        return f"{self.version} ({', '.join(filter(None, (self.commit[:7], self.origin)))})"


def required(source: AiterSource | None) -> AiterSource:
    """The AITER that a backend needs; AiterNotFound where there is none."""
    if source is None:
        raise AiterNotFound("no AITER is installed: name one with --aiter PATH or --aiter REPOSITORY@REF")
    return source


def locate(spec: str | None) -> AiterSource | None:
    """The AITER that `spec` names, `PATH` (source tree or git repository) or `PATH@REF`; AiterNotFound if none.

    Without a spec, the installed AITER, found without importing it, or None. A bare repository without a ref means
    its HEAD; a working tree without a ref means the files as they lie there.
    """
    if spec is None:
        return _installed()
    path, ref = path_and_ref(spec)
    repository = Repository.at(path)
    if ref is None and (repository is None or repository.has_working_tree):
        return _tree(path)
    if repository is None:
        raise AiterNotFound(f"{path} is not a git repository, so it has no ref {ref!r}")
    commit = repository.commit(ref or "HEAD")
    identity = repository.identity(commit)
    root = repository.export(commit, identity, cache_folder())
    return AiterSource(root, "repository", identity.version, commit, repository)


def path_and_ref(spec: str) -> tuple[Path, str | None]:
    """Splits `PATH@REF` at the last '@' that leaves an existing path: both a path and a ref may hold one."""
    if spec and Path(spec).expanduser().exists():  # an empty one would be the folder that this runs in
        return Path(spec).expanduser().resolve(), None
    for at in reversed([match.start() for match in re.finditer("@", spec)]):
        path = Path(spec[:at]).expanduser()
        if at and path.exists() and spec[at + 1 :]:
            return path.resolve(), spec[at + 1 :]
    raise AiterNotFound(f"no AITER at {spec!r}: there is no such path")


def _tree(root: Path) -> AiterSource:
    if not (root / KERNELS).is_dir():
        raise AiterNotFound(f"no AITER at {root}: it holds no {KERNELS}")
    identity = _tree_identity(root)
    return AiterSource(root, "tree", identity.version, identity.commit, Repository.at(root))


def _installed() -> AiterSource | None:
    root = _importable_root()
    if root is None:
        return None
    if repository := Repository.at(root):  # an editable install: what was built is older than what would be imported
        identity = _tree_identity(root)
        return AiterSource(root, "installed", identity.version, identity.commit, repository)
    for name in _DISTRIBUTIONS:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        return AiterSource(root, "installed", _normal(distribution.version), _commit_of(distribution))
    return _tree(root)


def _importable_root() -> Path | None:
    """The folder from which `import aiter` would import AITER; another project of that name does not count."""
    # Asked of the finders, since `importlib.util.find_spec` would answer with a source that was loaded before.
    for finder in sys.meta_path:
        spec = finder.find_spec("aiter", None)
        for location in (spec and spec.submodule_search_locations) or ():
            if (Path(location).parent / KERNELS).is_dir():
                return Path(location).resolve().parent
    return None


def _tree_identity(root: Path) -> Identity:
    """What the tree at `root` says of itself: the note of an export, git, `_version.py`, or package metadata."""
    if noted := read_identity(root):
        return noted
    if repository := Repository.at(root):
        return repository.working_tree_identity()
    stated = [(root / "aiter" / "_version.py", r"^(?:__version__|version)\b.*= *['\"]([^'\"]+)")]
    stated += [(file, r"^Version: *(\S+)") for file in (root / "PKG-INFO", *_metadata_beside(root))]
    for file, pattern in stated:
        if file.is_file() and (match := re.search(pattern, file.read_text(errors="replace"), re.MULTILINE)):
            return Identity(_normal(match.group(1)))
    return Identity()


def _metadata_beside(root: Path) -> list[Path]:
    return sorted(
        file
        for name in ("amd_aiter", "aiter")
        for file in (*root.glob(f"{name}*.dist-info/METADATA"), *root.glob(f"{name}*.egg-info/PKG-INFO"))
    )


def _commit_of(distribution: metadata.Distribution) -> str:
    """The commit from which pip installed the distribution, where it noted one."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return ""
    return str(origin.get("vcs_info", {}).get("commit_id", ""))


def _normal(version: str) -> str:
    try:
        return str(Version(version))
    except InvalidVersion:
        return UNKNOWN


def cache_folder() -> Path:
    """Where exports are kept: $CONFORMANCE_CACHE, or `aiter-conformance` in the user's cache folder."""
    if own := os.environ.get("CONFORMANCE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "aiter-conformance"
