"""Backends that behave in every way a stranger's might: each is what `--backend answers:NAME` names in a test."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conformance.backends import Answer
from conformance.backends.torch import attend
from conformance.case import Case
from conformance.inputs import Inputs
from conformance.status import Unsupported


def right(case: Case, inputs: Inputs) -> Tensor:
    return attend(case, inputs)


def wrong(case: Case, inputs: Inputs) -> Tensor:
    return right(case, inputs) + 1


def nan(case: Case, inputs: Inputs) -> Tensor:
    return right(case, inputs) * torch.nan


def unwritten(case: Case, inputs: Inputs) -> Tensor:
    out = torch.empty_like(inputs.q)
    out[1:] = right(case, inputs)[1:]
    return out


def wrong_shape(case: Case, inputs: Inputs) -> Tensor:
    return right(case, inputs)[None]


def wrong_dtype(case: Case, inputs: Inputs) -> Tensor:
    return right(case, inputs).float()


def infinite_lse(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor]:
    out = right(case, inputs)
    return out, torch.full(out.shape[:2], torch.inf)


def declines(case: Case, inputs: Inputs) -> Tensor:
    raise Unsupported("no kernel has what this case asks")


def not_implemented(case: Case, inputs: Inputs) -> Tensor:
    raise NotImplementedError("softcap != 0 not implemented")


def raises(case: Case, inputs: Inputs) -> Tensor:
    raise RuntimeError("the first line\nand a second")


def raises_without_a_word(case: Case, inputs: Inputs) -> Tensor:
    raise RuntimeError


def out_of_memory(case: Case, inputs: Inputs) -> Tensor:
    raise MemoryError("no room for the split buffers")


def out_of_memory_on_the_device(case: Case, inputs: Inputs) -> Tensor:
    raise torch.OutOfMemoryError("HIP out of memory. Tried to allocate 9 GiB")


def out_of_memory_on_the_cpu(case: Case, inputs: Inputs) -> Tensor:
    return torch.empty(2**50)


def out_of_lds(case: Case, inputs: Inputs) -> Tensor:
    raise RuntimeError("out of resource: shared memory, Required: 98304, Hardware limit: 65536. As Triton says it.")


def returns_nothing(case: Case, inputs: Inputs) -> None:
    return None


def leaves(case: Case, inputs: Inputs) -> Tensor:
    sys.exit("a library that thinks it is a program")


def skips(case: Case, inputs: Inputs) -> Tensor:
    pytest.skip("a library that thinks it is a test")


def doubles_q_in_place(case: Case, inputs: Inputs) -> Tensor:
    inputs.q.mul_(2)
    return right(case, inputs)


def clears_the_cache_afterwards(case: Case, inputs: Inputs) -> Tensor:
    out = right(case, inputs)
    inputs.v_cache.zero_()
    return out


def warns(case: Case, inputs: Inputs) -> Tensor:
    warnings.warn("deprecated since AITER 0.1.20", DeprecationWarning, stacklevel=1)
    return right(case, inputs)


def dies(case: Case, inputs: Inputs) -> Tensor:
    os._exit(42)


def says_more(case: Case, inputs: Inputs) -> Answer:
    return Answer(right(case, inputs), path="sdpa")


BEHAVIOURS: tuple[Callable[[Case, Inputs], object], ...] = (
    right,
    wrong,
    nan,
    unwritten,
    wrong_shape,
    wrong_dtype,
    infinite_lse,
    declines,
    not_implemented,
    raises,
    out_of_memory,
    leaves,
    skips,
    dies,
    says_more,
    warns,
)


def by_page_size(case: Case, inputs: Inputs) -> object:
    """One backend with all behaviours: a case's page size, from 1, chooses."""
    return BEHAVIOURS[case.page_size - 1](case, inputs)


_answered: list[str] = []


def interrupts_a_qualification(case: Case, inputs: Inputs) -> Tensor:
    """Two answers, and then, the first time in a folder, the process that started this one is interrupted."""
    _answered.append(case.id)
    if len(_answered) > 2 and not (already := Path("interrupted")).exists():
        already.touch()
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    return right(case, inputs)


def interrupted_after_two(case: Case, inputs: Inputs) -> Tensor:
    """Two answers, and then the user presses ^C."""
    _answered.append(case.id)
    if len(_answered) > 2:
        os.kill(os.getpid(), signal.SIGINT)
    return right(case, inputs)
