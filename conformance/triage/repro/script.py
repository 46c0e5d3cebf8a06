"""The script of a bundle: the call as it was, spelled out, amid what it takes to run without a GPU."""

from __future__ import annotations

import math
import textwrap
from importlib import resources
from string import Template
from typing import Any

import torch

from conformance.judge import ROW_NOISE_LIMIT
from conformance.status import Status
from conformance.triage.repro.expected import Expected
from conformance.triage.repro.heard import KernelCall

WIDTH = 118

COMPARE = """def over(got, want, allowed):  # errors in units of what is allowed; NaN is wanted where nothing is
    error = (got.double() - want).abs().nan_to_num(torch.inf, torch.inf) / allowed
    return error.masked_fill(want.isnan() | (got == want), 0)
rows = over(out, have["out"], have["out.noise"]).square().mean(-1)[have["out.noise"][..., 0] > 0]
found = {{"an element": over(out, have["out"], have["out.bound"]).max(), "a row": rows.max().sqrt() / {row:g},
         "all rows": rows.mean().sqrt() / {all:.4g}{lse}}}
for what, x in found.items(): print(f"{{x:9.3g}} x the error that rounding allows {{what}}")
sys.exit(int(max(found.values()) > 1))"""

RAN = 'print("It {how} where this was written, and runs here: whether its output is right was not asked.")'

LOST = {Status.CRASH: "killed its process", Status.TIMEOUT: "did not return"}
"""How a call ended that gave no output; others raised."""


class NotWritable(Exception):
    """A call that cannot be spelled out, in one sentence."""


def script(call: KernelCall, expected: Expected | None, title: str, arch: str, status: Status) -> str:
    """The script, under 60 lines; without `expected` it only calls. Raises NotWritable."""
    text = resources.files(__name__.rpartition(".")[0]).joinpath("reproduce.py.template").read_text(encoding="utf-8")
    return Template(text).substitute(
        title=title,
        code="It calls, and compares nothing." if expected is None else "Exit code 1: too much error.",
        arch=arch,
        module=call.module,
        function=call.function,
        call=_wrapped(_assigned(call, expected)),
        compare=RAN.format(how=LOST.get(status, "raised")) if expected is None else _compare(expected),
    )


def spelled_out(value: Any, name: str) -> str:
    """An argument as Python has it. Raises NotWritable."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(spelled_out(x, name) for x in value)}{',' * (len(value) == 1)})"
    if type(value).__module__.startswith("triton.language"):  # a dtype: kernels take those of Triton too
        import triton.language as tl

        known = next((dtype for dtype in ("bfloat16", "float16", "float32") if getattr(tl, dtype) == value), None)
        if known is not None:
            return f'__import__("triton.language").language.{known}'
    raise NotWritable(f"its argument {name} is a {type(value).__name__}, which a script cannot spell out")


def _assigned(call: KernelCall, expected: Expected | None) -> str:
    others = [f"{name}={spelled_out(x, name)}" for name, x in call.arguments.items() if name not in call.tensors]
    called = f"{call.function}({', '.join(['**t', *others])})"
    if expected is None:
        return called
    if expected.written:
        output = f't["{expected.written}"]'
        return f'{called}\nout = {output}.as_strided(have["out"].shape, {output}.stride(), 0)  # and its surroundings'
    if not isinstance(call.returned, (tuple, list)):
        return f"out = {called}"
    return f"out, {'' if expected.lse is None else 'lse, '}*_ = {called}"


def _wrapped(lines: str) -> str:
    fill = textwrap.TextWrapper(WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill.fill(line) for line in lines.splitlines())


def _compare(expected: Expected) -> str:
    lse = "" if expected.lse is None else ', "an lse": over(lse, have["lse"], have["lse.bound"]).max()'
    return COMPARE.format(lse=lse, row=ROW_NOISE_LIMIT, all=expected.noise_limit)
