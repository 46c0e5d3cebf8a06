"""Triton's internals, touched only where they are what they were: a mend that misses must never go unnoticed."""

from __future__ import annotations

import inspect
from typing import Any

from conformance.targets.target import TargetError

KNOWN_VERSIONS = "3.6 to 3.9"
"""The Triton versions whose internals were read and tested; another version is used if it looks the same."""


def known(owner: Any, name: str, *parameters: str) -> Any:
    """`owner.name`, which must take `parameters` (by these names, in this order); TargetError if it is not so."""
    try:
        member = getattr(owner, name)
        taken = tuple(inspect.signature(member).parameters) if parameters else ()
    except (AttributeError, TypeError, ValueError):
        raise unknown_interpreter(f"{_name(owner)}.{name} is missing") from None
    if taken != parameters:
        raise unknown_interpreter(f"{_name(owner)}.{name} takes ({', '.join(taken)}), not ({', '.join(parameters)})")
    return member


def unknown_interpreter(difference: str) -> TargetError:
    """The refusal of a Triton whose interpreter cannot be mended for certain."""
    import triton

    return TargetError(
        f"the interpreter of Triton {triton.__version__} is not one that this suite can mend ({difference}): "
        f"Triton {KNOWN_VERSIONS} are known to work"
    )


def _name(owner: Any) -> str:
    return getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None) or type(owner).__name__
