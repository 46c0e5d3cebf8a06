"""A backend that takes its process along in every way a kernel might: the case's page size says how."""

import ctypes
import os
import signal
import time
from pathlib import Path

from torch import Tensor

from conformance.backends.torch import attend
from conformance.case import Case
from conformance.inputs import Inputs


def right(case: Case, inputs: Inputs) -> Tensor:
    return attend(case, inputs)


def reads_address_zero(case: Case, inputs: Inputs) -> Tensor:
    ctypes.string_at(0)
    return attend(case, inputs)


def aborts(case: Case, inputs: Inputs) -> Tensor:
    os.write(2, b"Memory access fault by GPU node-1 on address 0x7f0000000000. Reason: Unknown.\n")
    os.abort()


def is_killed(case: Case, inputs: Inputs) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return attend(case, inputs)


def leaves(case: Case, inputs: Inputs) -> Tensor:
    os._exit(42)


def hangs(case: Case, inputs: Inputs) -> Tensor:
    while True:
        time.sleep(60)


def leaves_the_first_time(case: Case, inputs: Inputs) -> Tensor:
    """One that would pass if it were run again: a crash is never retried into a pass."""
    been_here = Path("been here")
    if not been_here.exists():
        been_here.touch()
        os._exit(1)
    return attend(case, inputs)


def harms_what_comes_after(case: Case, inputs: Inputs) -> Tensor:
    harmed.append(case)
    return attend(case, inputs)


def is_harmed(case: Case, inputs: Inputs) -> Tensor:
    if harmed:
        os.abort()
    return attend(case, inputs)


harmed: list[Case] = []

WAYS = (
    right,
    reads_address_zero,
    aborts,
    is_killed,
    leaves,
    hangs,
    leaves_the_first_time,
    harms_what_comes_after,
    is_harmed,
)


def by_page_size(case: Case, inputs: Inputs) -> Tensor:
    return WAYS[case.page_size - 1](case, inputs)
