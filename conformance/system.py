"""The system under test: which backend, on which target, with which AITER. One per process."""

import shlex
from dataclasses import dataclass

import torch

from conformance import backends
from conformance.aiter_source import AiterNotFound, AiterNotLoadable, AiterSource, locate, required
from conformance.targets import SPECS, Target, TargetError, activate

NotReady = (backends.UnknownBackend, backends.BackendNotReady, AiterNotFound, AiterNotLoadable, TargetError)
"""What `choose` and `System.start` raise: each one clear sentence about why nothing can run."""


@dataclass(frozen=True)
class System:
    """A choice that has been checked as far as that goes without importing AITER or touching a GPU."""

    backend: backends.Backend
    target_spec: str
    source: AiterSource | None
    options: tuple[str, ...]  # the command-line options that choose this system again
    defaulted: bool  # no backend was named and no AITER is installed

    @property
    def target_kind(self) -> str:
        """The kind of target, before it is activated."""
        return self.target_spec.partition(":")[0]

    @property
    def name(self) -> str:
        """As `backends.named` has it."""
        if self.source is None:
            return self.backend.name
        own = self.backend.version() if self.backend.version is not None else ""
        return backends.named(self.backend.name, own, self.source.version)

    @property
    def only_builds(self) -> bool:
        """Are kernels built and not run? Then there are no answers."""
        return self.target_kind == "compile"

    def start(self) -> Target:
        """Activate the target and import the kernels. Raises one of `NotReady`."""
        target = activate(self.target_spec)
        if target.kind != "gpu":
            torch.set_num_threads(1)  # cases are small, and workers would crowd each other out
        if self.backend.prepare is not None:
            self.backend.prepare(self.source, target)
        return target

    def repro(self, check_id: str) -> str:
        """The command that runs one check on this system again."""
        return shlex.join(["python", "-m", "conformance", "run", *self.options, "--case", check_id])


def target_of(backend: backends.Backend, asked: str | None) -> str:
    """What was asked for, else the GPU where torch sees one, else the backend's choice; TargetError if it cannot be."""
    spec = asked if asked is not None else "gpu" if torch.cuda.is_available() else backend.targets[0]
    possible = [known for known in SPECS if known.split(":")[0] in backend.targets]
    if spec not in possible:
        raise TargetError(f"backend {backend.name} does not run on target {spec!r}: choose {' or '.join(possible)}")
    return spec


def choose(backend: str | None, target: str | None, aiter: str | None) -> System:
    """Fill in what was not named.

    The backend is `aiter` where an AITER is named or installed, else `torch`. The target is the GPU where torch sees
    one, else the backend's own choice. Raises one of `NotReady`.
    """
    source = locate(aiter)
    name = backend if backend is not None else "aiter" if source else "torch"
    loaded = backends.load(name)
    if loaded.version is not None:
        loaded.version()  # BackendNotReady, before an AITER is looked for
    if loaded.needs_aiter:
        required(source)
    if aiter and not loaded.needs_aiter and ":" not in name:
        raise backends.UnknownBackend(f"backend {name} does not use AITER: leave out --aiter, or --backend {name}")
    spec = target_of(loaded, target)
    options = [word for key, value in (("--backend", name), ("--target", spec), ("--aiter", aiter)) if value
               for word in (key, value)]  # fmt: skip
    uses_aiter = loaded.needs_aiter or aiter is not None
    return System(loaded, spec, source if uses_aiter else None, tuple(options), defaulted=not backend and not source)
