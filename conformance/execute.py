"""Running one case: inputs, backend, oracle, verdict."""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch

from conformance import guards
from conformance.backends import Answer, Backend
from conformance.case import Case
from conformance.evidence import key_read
from conformance.guards import WroteOutside
from conformance.inputs import Inputs, make
from conformance.judge import Verdict, judge
from conformance.memory import NotEnoughMemory
from conformance.status import YET_RIGHT, Status, Unsupported
from conformance.targets import Target
from reference import Attention, part_sums
from reference import attend as oracle


@dataclass(frozen=True)
class Prepared:
    """A case made ready to run: its inputs, on the target's device, and the oracle's answer."""

    inputs: Inputs
    want: Attention


def prepare(case: Case, target: Target) -> Prepared:
    """Make the inputs of a case, and ask the oracle before a backend could change what it is judged by."""
    inputs = make(case).to(target.device)
    return Prepared(inputs, exact(case, inputs))


Looks = Callable[[Case, Prepared, Answer], str]
"""What a wrong answer looks like, in words, or ""."""


def run(
    case: Case, backend: Backend, target: Target, prepared: Prepared | None = None, looks: Looks = lambda *_: ""
) -> Verdict:
    """The verdict on a case; what the backend raises becomes a status, never an exception.

    `looks` is asked about well-formed answers that are wrong.
    """
    if target.kind == "compile":
        from conformance.build import build  # which asks this module what an error means

        return build(case, backend)
    try:
        prepared = prepared or prepare(case, target)
        try:
            return _judged(case, prepared, *answered(case, prepared.inputs, backend, target), looks)
        except Unsupported as refused:
            if (probe := refused.probe) is None:
                raise
            return _probed(case, prepared, refused, replace(backend, attend=lambda *_: probe()), target, looks)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a kernel, a compiler or a driver may raise anything, SystemExit included
        return verdict_on(error)


def _judged(case: Case, prepared: Prepared, answer: Answer, seconds: float, looks: Looks) -> Verdict:
    verdict = judge(case, prepared.want, answer.out, answer.lse, answer.profile)
    failed = verdict.status is Status.MISMATCH
    evidence = key_read(case, prepared.inputs, answer.out, prepared.want.out, verdict) if failed else ""
    wrong = failed or verdict.status is Status.NONFINITE
    looks_like = looks(case, prepared, answer) if wrong else ""
    return replace(verdict, evidence=evidence, looks=looks_like, path=answer.path, seconds=seconds)


def _probed(
    case: Case, prepared: Prepared, refused: Unsupported, kernel: Backend, target: Target, looks: Looks
) -> Verdict:
    """What is not claimed of a kernel must be refused by it too: a wrong number in silence is a defect."""
    try:
        answer, seconds = answered(case, prepared.inputs, kernel, target)
    except Unsupported as more:
        return Verdict(Status.UNSUPPORTED, f"{refused}; {more}")
    except WroteOutside as stray:
        verdict = verdict_on(stray)
    except Exception as error:
        if _status_of(error) is Status.RESOURCE:
            raise
        return Verdict(Status.UNSUPPORTED, f"{refused}; refused by the kernel too: {_sentence(error)}")
    else:
        verdict = _judged(case, prepared, answer, seconds, looks)
    if verdict.status is Status.PASS:
        return Verdict(Status.UNSUPPORTED, f"{refused}; {YET_RIGHT}", path=verdict.path)
    return replace(verdict, reason=f"{verdict.reason}: silently wrong where the kernel should refuse ({refused})")


def answered(case: Case, inputs: Inputs, backend: Backend, target: Target) -> tuple[Answer, float]:
    """What the backend answers, and in how many seconds. Raises what the backend raises, and WroteOutside."""
    started = perf_counter()
    with uninitialised_memory_is_nan():
        answer = backend.answer(case, inputs)
        if target.kind == "gpu":
            torch.cuda.synchronize()
    seconds = perf_counter() - started
    guards.check(answer.guarded, answer.path)
    return answer, seconds


def verdict_on(error: BaseException) -> Verdict:
    """What it means for a check that a backend raised this."""
    path = error.path if isinstance(error, WroteOutside) else ""
    return Verdict(_status_of(error), _sentence(error), path=path)


def exact(case: Case, inputs: Inputs, *, sums: bool = True) -> Attention:
    """The oracle's answer to a case, with the sums that `judge` needs."""
    call = partial(
        oracle,
        inputs.q,
        inputs.k_cache,
        inputs.v_cache,
        inputs.block_table,
        inputs.seq_lens,
        inputs.query_start_loc,
        scale=inputs.scale,
        causal=case.causal,
        window=case.window,
        softcap=case.softcap,
        alibi_slopes=inputs.alibi_slopes,
        q_descale=inputs.q_descale,
        k_descale=inputs.k_descale,
        v_descale=inputs.v_descale,
    )
    whole = call(sinks=inputs.sinks, sums=sums)
    if not (sums and case.takes_chunks):
        return whole
    starts = [case.parts(b) for b in range(case.batch)]
    queries = torch.tensor(case.query_lens)
    return replace(whole, parts=part_sums(whole, starts, lambda *keys: call(key_range=keys), queries))


@contextmanager
def uninitialised_memory_is_nan() -> Iterator[None]:
    """Every buffer that torch hands out uninitialised holds NaN: what a kernel forgets to write shows in its output."""
    memory: Any = torch.utils.deterministic
    fill, mode = memory.fill_uninitialized_memory, torch.get_deterministic_debug_mode()
    memory.fill_uninitialized_memory = True
    torch.set_deterministic_debug_mode("warn")  # not use_deterministic_algorithms, which imports the compiler
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = fill
        torch.set_deterministic_debug_mode(mode)


def _status_of(error: BaseException) -> Status:
    lacks_operator = str(error).startswith("Could not run")  # torch's word for an operator that a device lacks
    if isinstance(error, Unsupported) or (isinstance(error, NotImplementedError) and not lacks_operator):
        return Status.UNSUPPORTED
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory", "out of resource")
    ):
        return Status.RESOURCE
    return Status.MISMATCH if isinstance(error, WroteOutside) else Status.ERROR


def _sentence(error: BaseException) -> str:
    """The line of the error that says what is wrong, and where it was raised."""
    if isinstance(error, Unsupported | NotEnoughMemory | WroteOutside):
        return _first_line(error)
    said = error
    while said.__cause__ is not None:  # Triton wraps what went wrong in a quotation of the source
        said = said.__cause__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = "/".join(frame.filename.split("/")[-3:])
    return f"{type(error).__name__}: {_first_line(said)} ({where}:{frame.lineno} in {frame.name})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    # Triton's compiler begins with the place, quotes the source, and says last what is wrong.
    return lines[-1] if re.fullmatch(r"at \d+:\d+:", lines[0]) else lines[0]
