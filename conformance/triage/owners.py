"""Whose a failure is: AITER's entry function and the Triton kernels that it launches, found in the source by its text.

A path names kernels of a backend, which says where each is entered; what that calls, and which of it is a kernel, is
read in the tree that was under test. Nothing is imported.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from conformance.aiter_entries import Entry
from conformance.aiter_source import attention_modules
from conformance.backends import Backend
from conformance.backends.aiter import BUILT, ENTRY_POINTS

DEEPEST = 8
"""Calls between an entry and a kernel, at most."""

_PLACE = re.compile(r"\((?P<file>[^() ]+\.py):\d+ in (?P<name>\w+)\)")
_PLACE_OF_DEATH = re.compile(r"in (?P<name>\w+) \((?P<file>[^() ]+\.py):\d+\)")
"""As an exception's reason, and as that of a crash or a timeout has it."""


@dataclass(frozen=True)
class Owner:
    """A function that the dispatch calls, the file that holds it, and kernels as `(file, function)`."""

    function: str
    file: str = ""
    kernels: tuple[tuple[str, str], ...] = ()

    def lines(self, most: int) -> list[str]:
        """`flash_attn_with_kvcache in aiter/.../mha_v3.py`, then each file with up to `most` of its kernels."""
        lines = [f"{self.function} in {self.file}" if self.file else f"{self.function} (no source at hand)"]
        for file in dict.fromkeys(file for file, _ in self.kernels):
            held = [function for holding, function in self.kernels if holding == file]
            more = f" and {len(held) - most} more" if len(held) > most else ""
            lines.append(f"{file}: {', '.join(held[:most])}{more}")
        return lines


def owners(backend: Backend, kernels: Collection[str], root: Path | None) -> list[Owner]:
    """Of kernels as paths call them; `root` is the folder that holds `aiter/`, None if there is no such tree here."""
    return [_owner(modules, function, root) for modules, function in _entries(backend, kernels)]


def raised_in(reason: str, root: Path | None) -> Owner | None:
    """The function that an exception, or a process's death, came from, if the reason of the failure names it."""
    named = _PLACE.search(reason) or _PLACE_OF_DEATH.search(reason)
    if named is None:
        return None
    place, function = named["file"], named["name"]
    found = sorted(str(file.relative_to(root)) for file in root.glob(f"**/{place}")) if root else []
    return Owner(function, found[0] if found else place)


def _entries(backend: Backend, kernels: Collection[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Where the backend enters each kernel: vLLM's and our dispatch by its name, others through the one they are of."""
    own = [one for one in vars(sys.modules[backend.attend.__module__]).values() if isinstance(one, Entry)]
    if backend.needs_aiter and not own:
        every = ENTRY_POINTS | BUILT
        yield from (every[kernel] for kernel in sorted(kernels) if kernel in every)
    for entry in own:
        yield attention_modules(entry.module), entry.function


def _owner(modules: Sequence[str], function: str, root: Path | None) -> Owner:
    for module in modules:
        if root is not None and (file := _file(root, module)) is not None:
            launched = sorted(dict.fromkeys(_Calls(root).kernels(module, (function,))))
            return Owner(function, str(file.relative_to(root)), tuple(launched))
    return Owner(function)


@dataclass
class _Calls:
    """Follows calls from function to function, over imports, to those that `triton.jit` decorates."""

    root: Path
    _seen: set[tuple[str, ...]] = field(default_factory=set)

    def kernels(self, module: str, words: tuple[str, ...], depth: int = DEEPEST) -> Iterator[tuple[str, str]]:
        """`(file, function)` of each kernel that what `words` mean in `module`, `f` or `other.f`, launches or is."""
        if (module, *words) in self._seen or depth == 0 or not words or (file := _file(self.root, module)) is None:
            return
        self._seen.add((module, *words))
        names = _names(file, module)
        if (definition := names.defined.get(words[0])) is None:
            yield from self._elsewhere(names.imported.get(words[0]), words[1:], depth)
        elif _is_kernel(definition):
            yield str(file.relative_to(self.root)), words[0]
        else:
            for used in _used(definition):
                yield from self.kernels(module, used, depth - 1)

    def _elsewhere(
        self, imported: tuple[str, str] | None, rest: tuple[str, ...], depth: int
    ) -> Iterator[tuple[str, str]]:
        """Of a name that is imported: a module, or what a module has by that name, itself or imported again."""
        if imported is None:
            return
        module, name = imported
        inner = f"{module}.{name}" if name else module
        if _file(self.root, inner) is not None:
            yield from self.kernels(inner, rest, depth)
        else:
            yield from self.kernels(module, (name, *rest), depth)


@dataclass(frozen=True)
class _Names:
    """What a module's names mean: its own functions and classes, and what it imports, as a module and a name in it."""

    defined: dict[str, ast.FunctionDef | ast.ClassDef]
    imported: dict[str, tuple[str, str]]


@cache
def _names(file: Path, module: str) -> _Names:
    """Of a module's whole text: AITER imports within functions too."""
    found = _Names({}, {})
    here = module.split(".")
    package = here if file.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.defined.setdefault(node.name, node)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found.imported.update({alias.asname or alias.name: (source, alias.name) for alias in node.names})
        elif isinstance(node, ast.Import):
            found.imported.update({alias.asname: (alias.name, "") for alias in node.names if alias.asname})
    return found


def _used(definition: ast.AST) -> list[tuple[str, ...]]:
    """The names that a function or a class uses, in order: called, launched or passed on. Not for a gradient's sake."""
    found: dict[tuple[str, ...], None] = {}
    left = [definition]
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef) and node.name == "backward":
            continue
        words, inner = [], node
        while isinstance(inner, ast.Attribute):
            words.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            found[(inner.id, *reversed(words))] = None
        left += ast.iter_child_nodes(node)
    return [*found]


def _is_kernel(definition: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(re.search(r"\bjit\b", ast.unparse(decorator)) for decorator in definition.decorator_list)


def _file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
