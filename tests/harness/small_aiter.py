"""AITERs of one function: source trees and git repositories, made on the spot."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conformance.aiter_source import AiterSource, locate

KERNEL = "aiter/ops/triton/attention/mha_v3.py"
FUNCTION = "flash_attn_with_kvcache"


def write_tree(root: Path, kernel: str = KERNEL, body: str = f"def {FUNCTION}(): return 'one'\n") -> Path:
    """A source tree that looks like AITER, with `body` for its kernel module."""
    for file, text in {"aiter/ops/__init__.py": "", "aiter/unrelated.py": "", kernel: body}.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    return root


class Checkout:
    """A git working tree of a small AITER."""

    def __init__(self, path: Path) -> None:
        self.path = write_tree(path)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "tester")
        self.git("config", "user.email", "tester@example.org")

    @classmethod
    def at(cls, path: Path) -> Checkout:
        """A repository that is there already, as it is."""
        there = cls.__new__(cls)
        there.path = path
        return there

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", self.path, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, answer: str, *tags: str) -> str:
        """Commits a kernel that returns `answer`, under `tags`; gives the commit's id."""
        (self.path / KERNEL).write_text(f"def {FUNCTION}(): return {answer!r}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", answer)
        for tag in tags:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")

    def bare(self, path: Path) -> Path:
        self.git("clone", "--quiet", "--bare", str(self.path), str(path))
        return path


def found(spec: str | Path) -> AiterSource:
    """The AITER that `spec` names, which must be there."""
    source = locate(str(spec))
    assert source is not None
    return source


def kernel_text(source: AiterSource) -> str:
    """The kernel module of `source`, as text."""
    return (source.root / KERNEL).read_text()
