"""What each kernel is called with on each path, argument by argument: names, order, shapes, dtypes and strides."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from conformance.aiter_signatures import Passed
from conformance.case import Case
from conformance.dispatch import forward
from conformance.dispatch.contracts import CONTRACTS
from conformance.inputs import Inputs, make
from tests.harness.dispatch_kernels import KERNELS, ROCM, TRITON, Kernels
from tests.harness.dispatched import built, case_of, layer_of

SCALE = 0.125
FEATURES = "-softcap3-alibi-sinks"
HEADS = "h4:2-d64-p16"


def described(argument: Any) -> Any:
    """`bf16 [3, 4, 64] strides [256, 64, 1]` of a tensor, whose strides are left out where it is dense."""
    if not isinstance(argument, Tensor):
        return argument
    dtype = {"bfloat16": "bf16", "float32": "fp32"}.get(name := str(argument.dtype).removeprefix("torch."), name)
    text = f"{dtype} {list(argument.shape)}"
    return text if argument.is_contiguous() else f"{text} strides {list(argument.stride())}"


def step(words: str) -> tuple[Case, Inputs]:
    """A case whose sequences decode up to 5 queries or, where none has so few, none; contexts in chunks of 16."""
    mode, _, rest = words.split("-", 2)
    threshold = 4 if rest.startswith(FRESH) else 0
    case = case_of(mode, rest, threshold=threshold, chunk=16)
    return case, make(case)


def calls(case: Case, inputs: Inputs, load: Callable[[str], Any], *, trims: bool) -> None:
    metadata = built(case, inputs, trims=trims)
    forward(layer_of(case, inputs), metadata, inputs.q, inputs.k_cache, inputs.v_cache, key=inputs.key,
            value=inputs.value, load=load)  # fmt: skip


UNIFIED = {
    "q": "bf16 [15, 4, 64]",
    "k": "cache",
    "v": "cache",
    "out": "bf16 [15, 4, 64]",
    "cu_seqlens_q": "int32 [4]",
    "max_seqlen_q": 5,
    "seqused_k": "int32 [3]",
    "max_seqlen_k": 70,
    "softmax_scale": SCALE,
    "causal": True,
    "window_size": (20, 0),
    "block_table": "int32 [3, 5]",
    "softcap": 3.0,
    "q_descale": None,
    "k_descale": None,
    "v_descale": None,
    "alibi_slopes": "fp32 [4]",
    "sinks": "fp32 [4]",
}

KVCACHE = {
    "q": "bf16 [3, 5, 4, 64]",
    "k_cache": "cache",
    "v_cache": "cache",
    "cache_seqlens": "int32 [3]",
    "softmax_scale": SCALE,
    "causal": False,
    "window_size": (20, 3),
    "softcap": 0.0,
    "q_descale": None,
    "k_descale": None,
    "v_descale": None,
    "return_softmax_lse": True,
    "page_table": "int32 [3, 5]",
}

PAGED = {
    "out": "bf16 [3, 4, 64]",
    "workspace_buffer": f"uint8 [{3 * 4 * 1 * (64 * 2 + 8)}]",
    "query": "bf16 [3, 4, 64]",
    "key_cache": "cache",
    "value_cache": "cache",
    "scale": SCALE,
    "block_tables": "int32 [3, 5]",
    "cu_query_lens": "int32 [4]",
    "context_lens": "int32 [3]",
    "max_context_len": 70,
    "alibi_slopes": "fp32 [4]",
    "kv_cache_dtype": "auto",
    "kv_cache_layout": "NHD",
    "logits_soft_cap": 3.0,
    "k_scale": "fp32 [1]",
    "v_scale": "fp32 [1]",
    "fp8_out_scale": None,
    "partition_size": 256,
    "mtp": 1,
    "sliding_window": 0,
}

NEW = {
    "q": "bf16 [14, 4, 64]",
    "k": "bf16 [14, 2, 64]",
    "v": "bf16 [14, 2, 64]",
    "cu_seqlens_q": "int32 [3]",
    "cu_seqlens_k": "int32 [3]",
    "max_seqlen_q": 9,
    "max_seqlen_k": 9,
    "dropout_p": 0.0,
    "softmax_scale": SCALE,
    "causal": True,
    "window_size": (-1, -1),
    "alibi_slopes": None,
    "return_lse": True,
}
MHA = NEW | {"sink": None}
CK = NEW | {"min_seqlen_q": 1, "logits_soft_cap": 0.0}
CHUNK = {"causal": False, "k": "bf16 [24, 2, 64]", "v": "bf16 [24, 2, 64]", "max_seqlen_k": 16}
LAST_CHUNK = {"causal": False, "k": "bf16 [5, 2, 64]", "v": "bf16 [5, 2, 64]", "max_seqlen_k": 5}
REACH = {"k": "bf16 [42, 2, 64]", "v": "bf16 [42, 2, 64]", "max_seqlen_k": 29, "window_size": (20, -1)}

DECODE, SINGLE, FRESH = f"b3-q5-{HEADS}-kv70+5+33", f"b3-q1-{HEADS}-kv70+1+33", f"b2-q9+5-{HEADS}"


@pytest.mark.parametrize(
    ("case", "offers", "expected"),
    [
        (f"causal-bf16-{DECODE}-w20:inf{FEATURES}", TRITON, [("unified", UNIFIED)]),
        (f"noncausal-bf16-{DECODE}-w20:3", TRITON, [("kvcache", KVCACHE)]),
        (f"noncausal-bf16-b3-q5+2+1-{HEADS}-kv70+5+33-w20:3", TRITON, [("kvcache", KVCACHE)]),
        (f"causal-bf16-{SINGLE}-softcap3-alibi", ROCM, [("paged", PAGED)]),
        (
            f"causal-bf16-{SINGLE}-w20:inf-softcap3-alibi",
            ROCM,
            [("paged", PAGED | {"block_tables": "int32 [3, 3]", "max_context_len": 36, "sliding_window": 21})],
        ),
        (
            f"causal-bf16-{SINGLE}-softcap3-alibi-cache.e4m3fnuz",
            ROCM,
            [("paged", PAGED | {"kv_cache_dtype": "fp8"})],
        ),
        (f"causal-bf16-{SINGLE}-softcap3-alibi-q.fused", ROCM, [("paged", PAGED | {"query": "wide"})]),
        (f"causal-bf16-{FRESH}-kv9+5", TRITON, [("mha", MHA)]),
        (
            f"causal-bf16-{FRESH}-kv9+5-w20:0-alibi-sinks",
            TRITON,
            [("mha", MHA | {"window_size": (20, -1), "sink": "fp32 [4]",
                            "alibi_slopes": "fp32 [2, 4] strides [0, 1]"})],
        ),
        (f"noncausal-bf16-{FRESH}-kv9+5", TRITON, [("mha", MHA | {"causal": False})]),
        (
            f"noncausal-bf16-{FRESH}-kv9+5-w20:3-softcap3-sinks",
            ROCM,
            [("ck", CK | {"causal": False, "window_size": (20, 3), "logits_soft_cap": 3.0, "sink_ptr": "fp32 [4]"})],
        ),
        (f"causal-bf16-{FRESH}-kv9+5-alibi", ROCM, [("ck", CK | {"alibi_slopes": "fp32 [4]"})]),
        (
            f"causal-bf16-{FRESH}-kv30+13-sinks",
            TRITON,
            [("mha", MHA), ("mha", MHA | CHUNK), ("mha", MHA | LAST_CHUNK)],
        ),
        (
            f"noncausal-bf16-{FRESH}-kv30+13-winf:3",
            ROCM,
            [("ck", CK | {"causal": False, "window_size": (-1, 3)}), ("ck", CK | CHUNK), ("ck", CK | LAST_CHUNK)],
        ),
        (f"causal-bf16-{FRESH}-kv30+13-w20:0-sinks", TRITON, [("mha", MHA | REACH | {"sink": "fp32 [4]"})]),
        (
            f"noncausal-bf16-{FRESH}-kv30+13-w20:3",
            ROCM,
            [("ck", CK | REACH | {"causal": False, "window_size": (20, 3)})],
        ),
    ],
    ids=lambda x: "" if isinstance(x, list) else "-".join(x) if isinstance(x, tuple) else x,
)  # fmt: skip
def test_a_kernel_is_called_with(
    case: str, offers: tuple[str, ...], expected: list[tuple[str, dict[str, Any]]]
) -> None:
    parsed, inputs = step(case)
    kernels = Kernels(offers)
    calls(parsed, inputs, kernels.load, trims="paged" in offers)
    seen = [(name, {key: described(value) for key, value in arguments.items()}) for name, arguments in kernels.called]
    known = {"cache": described(inputs.k_cache), "wide": described(inputs.q)}
    assert "strides" in known["cache"]
    meant = [(name, {key: known.get(value, value) if isinstance(value, str) else value
                     for key, value in arguments.items()}) for name, arguments in expected]  # fmt: skip
    assert seen == meant


@pytest.mark.parametrize(
    ("case", "offers"),
    [
        (f"causal-bf16-{DECODE}", TRITON),
        (f"noncausal-bf16-{DECODE}", TRITON),
        (f"causal-bf16-{SINGLE}", ROCM),
        (f"causal-bf16-{FRESH}-kv30+13", TRITON),
        (f"causal-bf16-{FRESH}-kv30+13", ROCM),
    ],
)
def test_the_contracts_are_the_calls(case: str, offers: tuple[str, ...]) -> None:
    """So that what is held against an AITER's declarations is what is called."""
    passed: list[tuple[str, Passed]] = []

    def noting(name: str, kernel: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            passed.append((name, Passed(len(args), tuple(sorted(kwargs)))))
            return kernel(*args, **kwargs)

        return call

    calls(*step(case), lambda name: noting(name, KERNELS[name]) if name in offers else None, trims=False)
    assert passed
    for name, call in passed:
        contract = CONTRACTS[name]
        assert call == Passed(contract.positional, tuple(sorted(contract.keywords)))


def test_the_kernels_here_take_the_calls() -> None:
    for name, contract in CONTRACTS.items():
        inspect.signature(KERNELS[name]).bind(*range(contract.positional), **dict.fromkeys(contract.keywords))
