"""`python -m conformance.qualify.probe BACKEND [TARGET]`: what a virtual environment would run on, as JSON.

Started by `qualify` with the Python of that environment: torch and Triton are told by that alone, and it may have a GPU
that its torch does not know.
"""

import json
import sys

import pytest  # noqa: F401  # a run needs it: its absence is to be known before the first

from conformance import backends, environment
from conformance.system import NotReady, target_of
from conformance.targets import activate


def described(backend: str, target: str | None) -> dict[str, object]:
    """The target as a run names it and all that its records will say of it; or one sentence that says why not."""
    try:
        loaded = backends.load(backend)
        own = {backend: loaded.version()} if loaded.version is not None else {}
        spec = target_of(loaded, target)
        return {"spec": spec, "environment": environment.describe(activate(spec)) | own}
    except NotReady as refused:
        return {"refused": str(refused)}


if __name__ == "__main__":
    print(json.dumps(described(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)))
