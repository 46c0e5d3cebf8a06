"""The text of an issue: what happens, the call, and how to run the script."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conformance.aiter_source import AiterSource
from conformance.case import Case
from conformance.failure import text
from conformance.judge import Verdict
from conformance.system import System
from conformance.targets import Target
from conformance.triage.repro.bundle import SCRIPT, TENSORS
from conformance.triage.repro.heard import KernelCall

WORDS = {
    "what": "What",
    "worst": "Worst element",
    "where": "Where",
    "key": "Key",
    "looks": "It looks",
}
"""What the lines of a failure are called here; others say what only this suite knows."""


@dataclass(frozen=True)
class Issue:
    """What is known of a failure."""

    case: Case
    verdict: Verdict
    call: KernelCall
    system: System
    target: Target
    source: AiterSource
    compares: bool  # does the script compare an output, or only call?

    @property
    def title(self) -> str:
        """One line: what it looks like says more than the rule that is broken."""
        looks, reason = self.verdict.looks.partition(": ")[0], self.verdict.reason.partition(": silently wrong")[0]
        return f"{self.call.function}: {self.verdict.status}" + (f", {looks or reason}" if looks or reason else "")

    def lines(self) -> Iterator[str]:
        """Markdown."""
        commit = f", commit {self.source.commit}" if self.source.commit else ""
        yield f"# {self.title}"
        yield ""
        yield f"`{self.call.function}` of `{self.call.module}`, AITER {self.source.version}{commit}."
        yield ""
        yield f"* Seen on: {_where(self.target)}"
        yield from self._facts()
        yield ""
        yield f"To reproduce, in a folder with the files `{SCRIPT}` and `{TENSORS}`:"
        yield ""
        yield f"    python -m pip install safetensors && python {SCRIPT}"
        yield ""
        yield "It needs torch, safetensors, Triton and AITER alone, and runs on an AMD GPU, on an NVIDIA GPU, or on the"
        prints = "prints errors in units of what rounding allows; above 1 is wrong"
        yield f"CPU by Triton's interpreter. It {prints if self.compares else 'compares nothing'}."
        yield ""
        yield "The call:"
        yield ""
        yield "| argument | dtype or value | shape | strides | offset |"
        yield "| --- | --- | --- | --- | --- |"
        for name, value in self.call.arguments.items():
            yield f"| `{name}` | {_row(value)} |"
        yield ""
        if self.compares:
            yield "The expected output is exact attention in float64. The budget is the worst case of the rounding that"
            yield "the kernel is known to do; the noise of rows is compared with what rounding to nearest makes."
            yield ""
        yield "The same with the suite that found it:"
        yield ""
        yield f"    {self._command()}"

    def _command(self) -> str:
        """With AITER's own name for the place where this machine keeps it."""
        commit = self.source.commit[:10]
        options = list(self.system.options)
        if "--aiter" in options:
            options[options.index("--aiter") + 1] = f"aiter.git@{commit}" if commit else "aiter"
        return replace(self.system, options=tuple(options)).repro(self.case.id)

    def _facts(self) -> Iterator[str]:
        said = text(self.case, self.verdict, self.system.name, self.target.name, "").splitlines()[1:]
        for line in said:
            word, _, rest = line.strip().partition(" ")
            if word in WORDS and rest:
                yield f"* {WORDS[word]}: {rest.strip()}"
        if self.verdict.path:
            yield f"* Path of the dispatch: {self.verdict.path}"


def _where(target: Target) -> str:
    import triton

    what = {"interpreter": f"Triton's interpreter on a CPU, as {target.arch}", "gpu": f"a GPU, {target.arch}"}
    here = what.get(target.kind, target.name)
    return f"{here}; torch {torch.__version__}, Triton {triton.__version__}, Python {platform.python_version()}"


def _row(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"{value!r} | | |"
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} | {list(value.shape)} | {list(value.stride())} | {value.storage_offset()}"
