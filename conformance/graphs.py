"""Graph relations: a captured call, replayed, must answer as the eager call does, and rightly; and reads no value.

A server captures a decode step once and replays it with other queries, lengths, pages and keys in the same buffers.
What host code decided at capture stays decided: a length that it read, a split that it counted, a pointer to a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from conformance import guards, host_reads
from conformance.backends import Answer, Backend
from conformance.case import DECODE, Case
from conformance.execute import answered, exact, uninitialised_memory_is_nan, verdict_on
from conformance.inputs import Inputs, make, random_bits
from conformance.judge import Verdict, differ, judge, malformed
from conformance.second_calls import renamed
from conformance.status import Status, Unsupported
from conformance.targets import Target

VERSION = 1
"""Part of the digest of every graph relation's result: raise it when what is replayed, or compared, changes."""

WARM_UPS = 3
"""Calls before a capture, on the stream that captures: kernels compile, and libraries allocate what they keep."""

REPLAYS = 20


@dataclass(frozen=True)
class GraphRelation:
    """What is changed, in place, between the capture of a call and its replay."""

    name: str
    says: str
    applies: Callable[[Case], bool]
    needs: str  # what the cases to which it applies have
    run: Callable[[Case, Backend, Target], Verdict]
    demand: str = "those of the eager call bit for bit, and right"
    on: tuple[str, ...] = ("gpu",)  # kinds of targets that can show it
    risky: bool = True  # a capture that fails may leave a context that nothing runs in


def related(relation: GraphRelation, case: Case, backend: Backend, target: Target) -> Verdict:
    """The verdict on a graph relation; what the backend raises becomes a status, never an exception."""
    try:
        if not backend.capturable:
            raise Unsupported(f"backend {backend.name} does not claim to be capturable in a graph")
        if target.kind not in relation.on:
            raise Unsupported(f"{relation.name} needs target {' or '.join(relation.on)}: nothing is captured here")
        return relation.run(case, backend, target)
    except KeyboardInterrupt:
        raise
    except (host_reads.HostRead, NotCaptured) as refusal:
        return Verdict(Status.ERROR, str(refusal))
    except BaseException as error:  # a kernel, a compiler or a driver may raise anything, SystemExit included
        return verdict_on(error)


# -- capture and replay ------------------------------------------------------------------------------------------------


class Captured:
    """A call whose launches are recorded in a graph. `case` is what host code sees; `inputs` may change in place."""

    def __init__(self, backend: Backend, case: Case, inputs: Inputs, pool: object = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with uninitialised_memory_is_nan(), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                backend.answer(case, inputs)
            torch.cuda.current_stream().synchronize()
            with _capture_that_may_fail(), torch.cuda.graph(self._graph, pool=pool, stream=stream):  # type: ignore[arg-type]
                self._answer = backend.answer(case, inputs)
        torch.cuda.synchronize()

    def replay(self) -> Answer:
        """The answer of a replay, in memory of its own; what the replay does not write is NaN. Raises WroteOutside."""
        for tensor in (self._answer.out, self._answer.lse):
            if tensor is not None:
                tensor.fill_(torch.nan)
        self._graph.replay()
        torch.cuda.synchronize()
        guards.check(self._answer.guarded, self._answer.path)
        lse = self._answer.lse
        return replace(self._answer, out=self._answer.out.clone(), lse=None if lse is None else lse.clone())


class NotCaptured(Exception):
    """The call works, and fails where it is captured; the message says over what."""


@contextmanager
def _capture_that_may_fail() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        first: BaseException = error  # the end of a capture complains of what went wrong before
        while first.__context__ is not None:
            first = first.__context__
        raise NotCaptured(f"the call works, and fails where it is captured: {verdict_on(first).reason}") from error


Steps = Callable[[Case, Inputs], Iterator[tuple[str, Case]]]
"""Changes the inputs of a captured call in place; gives what was done, and the case that they make now."""


def _replayed_after(steps: Steps, captured_as: Callable[[Case], Case] = lambda case: case) -> Callable[..., Verdict]:
    def run(case: Case, backend: Backend, target: Target) -> Verdict:
        inputs = make(captured_as(case)).to(target.device)
        inputs.seq_lens.copy_(torch.tensor(case.seq_lens))
        call = Captured(backend, case, inputs)
        verdict = Verdict(Status.NOT_RUN)
        for what, now in steps(case, inputs):
            verdict = _compared(call.replay(), backend, target, (case, now), inputs)
            if verdict.status is not Status.PASS:
                return replace(verdict, reason=f"replayed {what}: {verdict.reason}")
        return verdict

    return run


def _compared(replayed: Answer, backend: Backend, target: Target, cases: tuple[Case, Case], inputs: Inputs) -> Verdict:
    """Judge a replay by the eager call, to which host code is as it was at capture, and by the oracle."""
    captured, now = cases
    eager, seconds = answered(captured, inputs, backend, target)
    if reason := malformed(now, replayed.out, replayed.lse):
        return Verdict(Status.MALFORMED, reason)
    verdict = differ(now, (eager.out, eager.lse), (replayed.out, replayed.lse))
    if verdict.status is Status.PASS:
        verdict = judge(now, exact(now, inputs), replayed.out, replayed.lse, replayed.profile)
    elif verdict.status is Status.MISMATCH:
        again, _ = answered(captured, inputs, backend, target)
        if differ(now, (eager.out, eager.lse), (again.out, again.lse)).status is not Status.PASS:
            verdict = replace(verdict, status=Status.NONDETERMINISTIC, reason="two eager calls differ already")
    return replace(verdict, path=replayed.path, seconds=seconds)


def _replayed(case: Case, backend: Backend, target: Target) -> Verdict:
    """The first replay is judged; nothing changes, so that every later one has its bits, or something else did."""
    inputs = make(case).to(target.device)
    call = Captured(backend, case, inputs)
    first = call.replay()
    verdict = _compared(first, backend, target, (case, case), inputs)
    if verdict.status is not Status.PASS:
        return replace(verdict, reason=f"replayed once: {verdict.reason}")
    for time in range(2, REPLAYS + 1):
        again = call.replay()
        difference = differ(case, (first.out, first.lse), (again.out, again.lse))
        if difference.status is not Status.PASS:
            return replace(
                difference,
                reason=f"replayed {time} times: {difference.reason}",
                path=verdict.path,
                seconds=verdict.seconds,
            )
    return verdict


# -- what is changed ---------------------------------------------------------------------------------------------------


def _queries(case: Case, inputs: Inputs) -> Iterator[tuple[str, Case]]:
    inputs.q.neg_()
    yield "with other queries", case


def _cache(case: Case, inputs: Inputs) -> Iterator[tuple[str, Case]]:
    inputs.v_cache.neg_()
    yield "with other values", case
    inputs.k_cache.neg_()
    yield "with other keys", case


def _table(case: Case, inputs: Inputs) -> Iterator[tuple[str, Case]]:
    moved = renamed(case, make(case), random_bits(f"graph.table/{case.id}")).inputs
    for name in ("k_cache", "v_cache", "block_table"):
        getattr(inputs, name).copy_(getattr(moved, name))
    yield "with the same keys in other pages", case


def _lengths(case: Case, inputs: Inputs) -> Iterator[tuple[str, Case]]:
    """Longer, up to the captured maximum; as short as can be; and back."""
    longest = max(case.seq_lens)
    for what, lengths in (
        ("with every sequence as long as the longest", (longest,) * case.batch),
        ("with as many keys as queries", tuple(max(1, m) for m in case.query_lens)),
        ("with the lengths of the capture again", case.seq_lens),
    ):
        inputs.seq_lens.copy_(torch.tensor(lengths))
        yield what, replace(case, seq_lens=lengths)


def _as_long_as_the_longest(case: Case) -> Case:
    """A case whose tables name pages for every length that a replay may have."""
    return replace(case, seq_lens=(max(case.seq_lens),) * case.batch)


def _batches(case: Case, backend: Backend, target: Target) -> Verdict:
    """Batches of several sizes, the largest first, whose graphs share the memory of what they compute in between."""
    inputs, pool = make(case).to(target.device), torch.cuda.graph_pool_handle()
    sizes = sorted({case.batch, (case.batch + 1) // 2, 1}, reverse=True)
    parts = {size: _first(size, case, inputs) for size in sizes}
    calls = {size: Captured(backend, part, some, pool) for size, (part, some) in parts.items()}
    verdict = Verdict(Status.NOT_RUN)
    for size in (*sizes, *reversed(sizes)):
        part, some = parts[size]
        verdict = _compared(calls[size].replay(), backend, target, (part, part), some)
        if verdict.status is not Status.PASS:
            return replace(verdict, reason=f"replayed for the first {size} of {case.batch} sequences: {verdict.reason}",
                           worst=None, wrong=None)  # fmt: skip
    return verdict


def _first(size: int, case: Case, inputs: Inputs) -> tuple[Case, Inputs]:
    """The first sequences of a batch, in the batch's own buffers."""
    part = replace(case, query_lens=case.query_lens[:size], seq_lens=case.seq_lens[:size])
    cut = {"q": part.tokens, "seq_lens": size, "block_table": size, "query_start_loc": size + 1,
           "k_descale": size, "v_descale": size}  # fmt: skip
    parts = {f.name: value[: cut[f.name]] for f in fields(inputs)
             if f.name in cut and isinstance(value := getattr(inputs, f.name), Tensor)}  # fmt: skip
    return part, replace(inputs, **parts)


def _without_a_read(case: Case, backend: Backend, target: Target) -> Verdict:
    """The eager call, where every read of a device value by host code is an error, and on a GPU every wait for it."""
    inputs = make(case).to(target.device)
    if target.kind == "gpu":
        answered(case, inputs, backend, target)  # compiling may wait for the device; a captured call is compiled
    with host_reads.refused(), _waiting_is_an_error(target):
        answer = backend.answer(case, inputs)
    guards.check(answer.guarded, answer.path)
    return Verdict(Status.PASS, path=answer.path)


@contextmanager
def _waiting_is_an_error(target: Target) -> Iterator[None]:
    if target.kind != "gpu":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


# -- the table ---------------------------------------------------------------------------------------------------------


def _is_plain(case: Case) -> bool:
    return (
        case.step == DECODE
        and case.regime == "random"
        and case.page_order not in ("high", "huge")
        and not (case.cache_dtype or case.q_dtype)
    )


def _has_keys_for_its_queries(case: Case) -> bool:
    return _is_plain(case) and case.page_order != "shared" and max(case.seq_lens) >= max(1, *case.query_lens)


PLAIN = "sequences that decode, random inputs, a 16-bit cache that can be copied"

GRAPHS = {
    relation.name: relation
    for relation in (
        GraphRelation("graph.replay", f"the captured call, replayed {REPLAYS} times", _is_plain, PLAIN,
                      _replayed),
        GraphRelation("graph.queries", "the captured call, replayed with other queries", _is_plain, PLAIN,
                      _replayed_after(_queries)),
        GraphRelation("graph.cache", "the captured call, replayed with other keys and values", _is_plain, PLAIN,
                      _replayed_after(_cache)),
        GraphRelation("graph.table", "the captured call, replayed with the same keys in other pages", _is_plain, PLAIN,
                      _replayed_after(_table)),
        GraphRelation("graph.lengths", "the captured call, replayed with other lengths", _has_keys_for_its_queries,
                      f"{PLAIN}, and as many keys as queries", _replayed_after(_lengths, _as_long_as_the_longest)),
        GraphRelation("graph.batches", "captured calls of several batch sizes that share a pool of memory",
                      lambda case: _is_plain(case) and case.batch > 1 and case.page_order != "shared",
                      f"{PLAIN}, and several sequences", _batches),
        GraphRelation("host.reads", "what a captured call may do", _is_plain, PLAIN, _without_a_read,
                      demand="had without reading a value of the device", on=("gpu", "interpreter"), risky=False),
    )
}  # fmt: skip
"""Every graph relation, by its name."""
