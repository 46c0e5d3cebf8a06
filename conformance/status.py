"""What can come of a case."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

YET_RIGHT = "not claimed, and yet right"
"""How the reason of an UNSUPPORTED ends that was asked all the same, and answered rightly."""


class Unsupported(Exception):
    """Raised to decline a case instead of computing something else; the message says what is missing.

    `probe` asks the kernel anyway, where it has a parameter for what is not claimed of it: it returns what a backend
    returns, or raises what the kernel raises.
    """

    def __init__(self, message: str, probe: Callable[[], Any] | None = None) -> None:
        super().__init__(message)
        self.probe = probe


class Status(StrEnum):
    """One word for the outcome of a case; everything but PASS and UNSUPPORTED makes a run not conformant."""

    PASS = "PASS"
    MISMATCH = "MISMATCH"  # wrong numbers, or numbers where none belong
    NONFINITE = "NONFINITE"  # NaN or infinity, or an element never written
    MALFORMED = "MALFORMED"  # wrong shape or dtype
    UNSUPPORTED = "UNSUPPORTED"  # the backend declined, in so many words
    ERROR = "ERROR"  # an exception
    CRASH = "CRASH"  # the process died
    TIMEOUT = "TIMEOUT"
    RESOURCE = "RESOURCE"  # out of memory, or of what a workgroup can have
    NONDETERMINISTIC = "NONDETERMINISTIC"
    NOT_RUN = "NOT RUN"

    @property
    def ran(self) -> bool:
        """Did the system under test try, whatever came of it?"""
        return self not in (Status.NOT_RUN, Status.UNSUPPORTED)

    @property
    def conformant(self) -> bool:
        return self in (Status.PASS, Status.UNSUPPORTED)
