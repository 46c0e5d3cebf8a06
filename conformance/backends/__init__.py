"""Systems under test. A backend is one function `attend(case, inputs)`: a file here, or any `package.module:function`.

It returns the output tensor [T, Hq, D], or `(out, lse)` with lse [T, Hq], or an `Answer` that says more. To decline a
case it raises `Unsupported`. Nothing else is needed; a module here may also define `TARGETS` and `prepare`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from conformance.aiter_source import AiterSource
from conformance.case import Case
from conformance.guards import Guarded
from conformance.inputs import Inputs
from conformance.rounding import RoundingProfile
from conformance.status import Unsupported
from conformance.targets import Target

__all__ = ["Answer", "Backend", "BackendNotReady", "UnknownBackend", "Unsupported", "load", "names"]


class UnknownBackend(Exception):
    """A backend that cannot be found or is not callable, in one sentence."""


class BackendNotReady(Exception):
    """A backend that is known, and lacks something of its own here, in one sentence."""


@dataclass(frozen=True)
class Answer:
    """What a backend computed: `out` [T, Hq, D], `lse` [T, Hq] or None, which path, and what that path rounds.

    `guarded` are outputs that kernels were given, amid rows that must be as they were.
    """

    out: Tensor
    lse: Tensor | None = None
    path: str = ""
    profile: RoundingProfile | None = None
    guarded: tuple[Guarded, ...] = ()


Attend = Callable[[Case, Inputs], "Answer | Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Backend:
    """A loaded backend. `targets` says where it can run, the default first where no GPU is there."""

    name: str
    attend: Attend
    targets: tuple[str, ...] = ("cpu", "gpu", "interpreter", "compile")
    needs_aiter: bool = False
    prepare: Callable[[AiterSource | None, Target], None] | None = None  # once a process, before the first case
    describe: Callable[[AiterSource], dict[str, str]] | None = None  # what `doctor` should say of an AITER
    version: Callable[[], str] | None = None  # of what is under test beside AITER, where there is such a thing
    capturable: bool = False  # claims that `attend` may run while a graph is captured: it reads no value of the device

    def answer(self, case: Case, inputs: Inputs) -> Answer:
        """What the backend computes, whichever way it returned it. Raises what the backend raises."""
        returned = self.attend(case, inputs)
        if isinstance(returned, Answer):
            return returned
        if isinstance(returned, Tensor):
            return Answer(returned)
        if isinstance(returned, tuple) and len(returned) == 2 and all(isinstance(x, Tensor) for x in returned):
            return Answer(*returned)
        raise TypeError(f"a backend returns out, (out, lse) or an Answer, not {type(returned).__name__}")


def named(backend: str, own: str = "", aiter: str = "") -> str:
    """How a system is called: `aiter 0.1.20.post1`, `vllm 0.33.0 on aiter 0.1.20.post1`, or the backend's name alone.

    `own` is the version of what else the backend is, beside that of `aiter`; "" where there is none.
    """
    if not own:
        return f"{backend} {aiter}".strip()
    return f"{backend} {own}" + (f" on aiter {aiter}" if aiter else "")


def names() -> list[str]:
    """The backends that come with the suite."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load(name: str) -> Backend:
    """The backend of that name, or the function `package.module:function`. Raises UnknownBackend."""
    if ":" in name:
        try:
            attend = pkgutil.resolve_name(name)
        except Exception as e:  # whatever a stranger's module does when it is imported
            raise UnknownBackend(f"backend {name} cannot be loaded: {e}") from e
        if not callable(attend):
            raise UnknownBackend(f"backend {name} is not a function")
        return Backend(name, cast(Attend, attend), capturable=getattr(attend, "capturable", False))
    if name not in names():
        raise UnknownBackend(f"unknown backend {name!r}: there are {', '.join(names())}, or package.module:function")
    module = importlib.import_module(f"{__name__}.{name}")
    own = {field: getattr(module, field, None) for field in ("prepare", "describe", "version")}
    capturable = getattr(module, "CAPTURABLE", False)
    return Backend(name, module.attend, module.TARGETS, module.NEEDS_AITER, **own, capturable=capturable)
