"""What can come of a case."""

from enum import StrEnum


class Unsupported(Exception):
    """Raised to decline a case instead of computing something else; the message says what is missing."""


class Status(StrEnum):
    """One word for the outcome of a case; everything but PASS and UNSUPPORTED makes a run not conformant."""

    PASS = "PASS"
    MISMATCH = "MISMATCH"  # wrong numbers
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
