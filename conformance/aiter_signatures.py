"""Does a call bind to the function that an AITER declares? Read in its source: nothing is imported, let alone built."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path


@dataclass(frozen=True)
class Passed:
    """How a function is called: so many arguments by position, then these by name."""

    positional: int
    keywords: tuple[str, ...] = ()


def refusal(root: Path, modules: Sequence[str], function: str, passed: Passed) -> str:
    """Why the call does not bind to `function` of the first of `modules` under `root`, in a sentence; "" if it does."""
    file = next(
        (file for module in modules if (file := root.joinpath(*module.split(".")).with_suffix(".py")).is_file()), None
    )
    if file is None:
        return f"no module {' or '.join(modules)}"
    where = f"{function} in {file.relative_to(root)}"
    declared = next(
        (f for f in ast.parse(file.read_text()).body if isinstance(f, ast.FunctionDef) and f.name == function), None
    )
    if declared is None:
        return f"no {where}"
    try:
        _signature(declared.args).bind(*range(passed.positional), **dict.fromkeys(passed.keywords))
    except TypeError as error:
        return f"{where}: {error}"
    return ""


def _signature(declared: ast.arguments) -> Signature:
    positional = [*declared.posonlyargs, *declared.args]
    first_default = len(positional) - len(declared.defaults)
    parameters = [
        _parameter(
            argument.arg,
            Parameter.POSITIONAL_ONLY if at < len(declared.posonlyargs) else Parameter.POSITIONAL_OR_KEYWORD,
            has_default=at >= first_default,
        )
        for at, argument in enumerate(positional)
    ]
    if declared.vararg:
        parameters.append(_parameter(declared.vararg.arg, Parameter.VAR_POSITIONAL))
    parameters += [
        _parameter(argument.arg, Parameter.KEYWORD_ONLY, has_default=default is not None)
        for argument, default in zip(declared.kwonlyargs, declared.kw_defaults, strict=True)
    ]
    if declared.kwarg:
        parameters.append(_parameter(declared.kwarg.arg, Parameter.VAR_KEYWORD))
    return Signature(parameters)


def _parameter(name: str, kind: "Parameter.kind", *, has_default: bool = False) -> Parameter:  # type: ignore[valid-type]
    return Parameter(name, kind, default=None if has_default else Parameter.empty)
