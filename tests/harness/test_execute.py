"""Running a case: whatever a backend does becomes the right status, and it cannot touch what it is judged by."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from conformance.backends import Answer, Backend, UnknownBackend, load, names
from conformance.case import Case
from conformance.execute import run
from conformance.inputs import make
from conformance.judge import Verdict
from conformance.rounding import RoundingProfile
from conformance.status import Status, Unsupported
from conformance.targets import Target
from tests.harness import answers

CASE = Case.parse("decode-noncausal-bf16-b2-q2-h2:1-d16-p4-kv9+3-packed-random")
CPU = Target("cpu", "cpu", torch.device("cpu"))


def verdict_on(attend: Callable[..., Any], case: Case = CASE) -> Verdict:
    return run(case, Backend(attend.__name__, attend), CPU)


@pytest.mark.parametrize(
    ("attend", "status", "reason"),
    [
        (answers.right, Status.PASS, ""),
        (answers.says_more, Status.PASS, ""),
        (answers.wrong, Status.MISMATCH, "an element exceeds its error bound"),
        (answers.infinite_lse, Status.MISMATCH, "an lse exceeds its error bound"),
        (answers.nan, Status.NONFINITE, "128 elements (100.0%) are not finite, 128 of them NaN"),
        (answers.unwritten, Status.NONFINITE, "32 elements (25.0%) are not finite, 32 of them NaN"),
        (answers.wrong_shape, Status.MALFORMED, "output has shape [1, 4, 2, 16], not [4, 2, 16]"),
        (answers.wrong_dtype, Status.MALFORMED, "output is float32, not bf16"),
        (answers.declines, Status.UNSUPPORTED, "no kernel has what this case asks"),
        (answers.not_implemented, Status.UNSUPPORTED, "NotImplementedError: softcap != 0 not implemented (..."),
        (answers.raises, Status.ERROR, "RuntimeError: the first line (..."),
        (answers.raises_without_a_word, Status.ERROR, "RuntimeError..."),
        (answers.returns_nothing, Status.ERROR, "TypeError: a backend returns out, (out, lse) or an Answer, not N..."),
        (answers.out_of_memory, Status.RESOURCE, "MemoryError: no room for the split buffers (..."),
        (answers.out_of_memory_on_the_device, Status.RESOURCE, "OutOfMemoryError: HIP out of memory. Tried to allo..."),
        (answers.out_of_memory_on_the_cpu, Status.RESOURCE, "..."),
        (
            answers.out_of_lds,
            Status.RESOURCE,
            "RuntimeError: out of resource: shared memory, Required: 98304, ...",
        ),
    ],
    ids=lambda x: x.__name__ if callable(x) else "",
)
def test_what_a_backend_does_has_a_status(attend: Callable[..., Any], status: Status, reason: str) -> None:
    verdict = verdict_on(attend)
    assert verdict.status is status
    start, dots, _ = reason.partition("...")
    assert verdict.reason.startswith(start) if dots else verdict.reason == reason


def test_an_error_says_where_it_was_raised() -> None:
    assert "tests/harness/answers.py:" in verdict_on(answers.raises).reason
    assert verdict_on(answers.raises).reason.endswith(" in raises)")


def test_a_verdict_carries_path_and_time() -> None:
    verdict = verdict_on(answers.says_more)
    assert verdict.path == "sdpa"
    assert verdict.seconds is not None
    assert 0 < verdict.seconds < 60


def test_a_backend_cannot_change_what_it_is_judged_by() -> None:
    """Attention of 2 q is not attention of q, even for an oracle that comes later and sees the same memory."""
    assert not verdict_on(answers.doubles_q_in_place).status.conformant


def test_a_right_answer_stays_right_when_its_inputs_are_spoiled_afterwards() -> None:
    """Its output is right, so no verdict may claim wrong numbers; what it did to its inputs is another matter."""
    assert verdict_on(answers.clears_the_cache_afterwards).status is not Status.MISMATCH


def test_a_declared_profile_is_the_one_that_judges() -> None:
    def noisy(case: Case, inputs: Any) -> torch.Tensor:
        return answers.right(case, inputs) * (1 + 2.0**-8)

    strict = RoundingProfile(out="fp16", p="fp16")
    case = Case.parse("decode-noncausal-fp16-b1-q1-h1:1-d64-p4-kv1-packed-random")
    assert verdict_on(answers.right, case).status is Status.PASS
    assert verdict_on(noisy, case).status is Status.MISMATCH
    loose = RoundingProfile(out="bf16", p="bf16")
    assert verdict_on(lambda c, i: Answer(noisy(c, i), profile=strict), case).status is Status.MISMATCH
    assert verdict_on(lambda c, i: Answer(noisy(c, i), profile=loose), case).status is Status.PASS


def test_memory_handed_out_uninitialised_is_nan_only_while_a_backend_runs() -> None:
    seen: list[bool] = []

    def looks(case: Case, inputs: Any) -> torch.Tensor:
        seen.append(bool(torch.empty(64).isnan().all() and inputs.q.new_empty(64).isnan().all()))
        return answers.right(case, inputs)

    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    assert verdict_on(looks).status is Status.PASS
    assert seen == [True]
    assert verdict_on(answers.raises).status is Status.ERROR
    assert (torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory) == before


def test_a_backend_gets_the_bits_of_the_case() -> None:
    digests: list[str] = []

    def looks(case: Case, inputs: Any) -> torch.Tensor:
        digests.append(inputs.digest())
        return answers.right(case, inputs)

    verdict_on(looks)
    verdict_on(looks)
    assert digests == [make(CASE).digest()] * 2


# -- probes of what is refused ---------------------------------------------------------------------------------------


def refusing(probe: Callable[..., Any] | None, path: str = "kvcache") -> Callable[..., Any]:
    """A backend that declines, and whose kernel, asked anyway, does what `probe` does."""

    def refuses(case: Case, inputs: Any) -> torch.Tensor:
        kernel, sentence = probe, "the kernel has no softcap"
        if kernel is None:
            raise Unsupported(sentence)
        raise Unsupported(sentence, lambda: Answer(kernel(case, inputs), path=path))

    return refuses


WRONG = "silently wrong where the kernel should refuse (the kernel has no softcap)"


@pytest.mark.parametrize(
    ("probe", "status", "reason"),
    [
        (None, Status.UNSUPPORTED, "the kernel has no softcap"),
        (answers.right, Status.UNSUPPORTED, "the kernel has no softcap; not claimed, and yet right"),
        (answers.wrong, Status.MISMATCH, f"an element exceeds its error bound: {WRONG}"),
        (answers.unwritten, Status.NONFINITE, f"32 elements (25.0%) are not finite, 32 of them NaN: {WRONG}"),
        (answers.wrong_dtype, Status.MALFORMED, f"output is float32, not bf16: {WRONG}"),
        (
            answers.not_implemented,
            Status.UNSUPPORTED,
            "the kernel has no softcap; refused by the kernel too: NotImplementedError: softcap != 0 not implement...",
        ),
        (
            answers.raises,
            Status.UNSUPPORTED,
            "the kernel has no softcap; refused by the kernel too: RuntimeError: the first line (...",
        ),
        (answers.declines, Status.UNSUPPORTED, "the kernel has no softcap; no kernel has what this case asks"),
        (answers.out_of_memory, Status.RESOURCE, "MemoryError: no room for the split buffers (..."),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_refused_is_probed(probe: Callable[..., Any] | None, status: Status, reason: str) -> None:
    verdict = verdict_on(refusing(probe))
    assert verdict.status is status
    start, dots, _ = reason.partition("...")
    assert verdict.reason.startswith(start) if dots else verdict.reason == reason


def test_a_probe_that_answers_says_on_which_path() -> None:
    assert verdict_on(refusing(answers.right, "unified")).path == "unified"
    assert verdict_on(refusing(answers.wrong, "unified")).path == "unified"


def test_a_probe_runs_where_uninitialised_memory_is_nan() -> None:
    def leaves_out(case: Case, inputs: Any) -> torch.Tensor:
        return torch.empty_like(inputs.q)

    assert verdict_on(refusing(leaves_out)).status is Status.NONFINITE


# -- loading a backend ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nope", "unknown backend 'nope': there are "),
        ("no.such.module:attend", "backend no.such.module:attend cannot be loaded: No module named 'no'"),
        ("conformance.backends.torch:nope", "backend conformance.backends.torch:nope cannot be loaded: "),
        ("conformance.backends.torch:TARGETS", "backend conformance.backends.torch:TARGETS is not a function"),
        (":", "backend : cannot be loaded: "),
        ("a b:c", "backend a b:c cannot be loaded: "),
    ],
)
def test_a_backend_that_cannot_be_loaded_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UnknownBackend) as refused:
        load(name)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_a_function_by_its_name_is_a_backend() -> None:
    loaded = load("conformance.backends.torch:attend")
    assert run(CASE, loaded, CPU).status is Status.PASS


def test_the_backends_that_come_with_the_suite_can_be_named() -> None:
    assert {"aiter", "torch"} <= set(names())
    assert load("torch").targets == ("cpu", "gpu")
    assert load("aiter").needs_aiter
