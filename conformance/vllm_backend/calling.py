"""Calls of functions and classes whose parameters changed from one vLLM to the next."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from conformance.status import Unsupported


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Has the function, or the class when it is made, a parameter of that name?"""
    return name in inspect.signature(function).parameters


def call(function: Callable[..., Any], **known: Any) -> Any:
    """The function called with what it takes of `known`. Unsupported, with the names, if it wants more than that.

    For parameters that carry no part of what is asked: what must not be lost has to be looked for with `accepts`.
    """
    parameters = inspect.signature(function).parameters
    wanted = [name for name, parameter in parameters.items() if _is_wanted(parameter)]
    if strange := [name for name in wanted if name not in known]:
        raise Unsupported(f"{function.__qualname__} of this vLLM wants {', '.join(strange)}, which are not known here")
    return function(**{name: value for name, value in known.items() if name in parameters})


def _is_wanted(parameter: inspect.Parameter) -> bool:
    several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not several
