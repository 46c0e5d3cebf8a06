"""Runs small Triton kernels on the interpreter target and saves what went in and what came out.

A script for a process of its own: `python interpreted_kernels.py OUTPUT [--long-way]`. With `--long-way` launches are
Triton's own, without the shortcuts, whose results must be the same.
"""

# ruff: noqa: E402 - the target must be active before Triton is imported
import sys

import torch

from conformance.targets import activate, interpreter_launch

if "--long-way" in sys.argv:
    interpreter_launch.mend = lambda interpreter: None
activate("interpreter")

import triton
import triton.language as tl

SMALL_FLOATS = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
}


@triton.jit
def convert(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(y_ptr.dtype.element_ty))


@triton.jit
def convert_towards_zero(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(y_ptr.dtype.element_ty, fp_downcast_rounding="rtz"))


@triton.jit
def multiply_matrices(a_ptr, b_ptr, acc_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tile = i[:, None] * N + i[None, :]
    acc = tl.load(acc_ptr + tile)
    acc = tl.dot(tl.load(a_ptr + tile), tl.load(b_ptr + tile), acc=acc, out_dtype=acc.dtype)
    tl.store(y_ptr + tile, acc)


@triton.jit
def calculate(a_ptr, b_ptr, y_ptr, scale, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    tl.store(y_ptr + 0 * N + i, a + b)
    tl.store(y_ptr + 1 * N + i, a - b)
    tl.store(y_ptr + 2 * N + i, a * b)
    tl.store(y_ptr + 3 * N + i, a / b)
    tl.store(y_ptr + 4 * N + i, -a)
    tl.store(y_ptr + 5 * N + i, tl.abs(a))
    tl.store(y_ptr + 6 * N + i, tl.where(a > b, a, 1.5))
    tl.store(y_ptr + 7 * N + i, tl.maximum(a, b))
    tl.store(y_ptr + 8 * N + i, tl.minimum(a, b))
    tl.store(y_ptr + 9 * N + i, a * 0.3)
    tl.store(y_ptr + 10 * N + i, a * scale)
    tl.store(y_ptr + 11 * N + i, tl.exp2(a.to(tl.float32)))
    tl.store(y_ptr + 12 * N + i, tl.fma(a, b, a))


@triton.jit
def reduce_rows(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i[:, None] * N + i[None, :])
    tl.store(y_ptr + 0 * N + i, tl.max(x, 1))
    tl.store(y_ptr + 1 * N + i, tl.min(x, 1))
    tl.store(y_ptr + 2 * N + i, tl.sum(x, 1))


@triton.jit
def _larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def reduce_with_function(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i[:, None] * N + i[None, :])
    tl.store(y_ptr + i, tl.reduce(x, 1, _larger))


@triton.jit
def copy_masked(x_ptr, y_ptr, count_ptr, flag, N: tl.constexpr):
    count = tl.load(count_ptr)
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i, mask=i < count, other=2.5)
    for _ in range(0, count):  # a bound that is a tensor
        x += 1.0
    if flag:
        tl.store(y_ptr + i, x, mask=i != 0)


def every_float32_near(format: torch.dtype) -> torch.Tensor:
    """Every value of a 16-bit format (bfloat16's for the smaller ones), every tie, and the neighbours of both."""
    patterns = torch.arange(65536, dtype=torch.int32)
    if format == torch.float16:
        return torch.cat(
            [
                patterns.short().view(format).float().view(torch.int32) + d * 0x1000 + e
                for d in (0, 1)
                for e in (-1, 0, 1)
            ]
        )
    return torch.cat([(patterns << 16) + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])


def main(output: str) -> None:
    saved: dict[str, dict[str, torch.Tensor]] = {}

    def run(name: str, kernel, *tensors, grid: int = 1, **options) -> None:
        result = tensors[-1]
        saved[name] = {f"in{i}": tensor.clone() for i, tensor in enumerate(tensors[:-1])}
        kernel[(grid,)](*tensors, **options)
        saved[name]["out"] = result

    for name, small in SMALL_FLOATS.items():
        wide = every_float32_near(small).view(torch.float32)
        run(f"float32 to {name}", convert, wide, torch.empty(wide.shape, dtype=small), grid=6, N=65536)
        count = 65536 if small.itemsize == 2 else 256
        patterns = torch.arange(count, dtype=torch.int32).to(torch.int16 if count == 65536 else torch.uint8).view(small)
        for other in ("float32", "bfloat16", "float16"):
            to = torch.empty(count, dtype=getattr(torch, other))
            run(f"{name} to {other}", convert, patterns, to, grid=1, N=count)
    for name in ("bf16", "e4m3fn"):
        halves = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
        run(f"bfloat16 to {name}", convert, halves, torch.empty(65536, dtype=SMALL_FLOATS[name]), grid=1, N=65536)
    torch.manual_seed(0)
    integers = torch.randint(-(2**20), 2**20, (4096,), dtype=torch.int32)
    run("int32 to bf16", convert, integers, torch.empty(4096, dtype=torch.bfloat16), N=4096)
    run("bf16 to int32", convert, integers.to(torch.bfloat16), torch.empty(4096, dtype=torch.int32), N=4096)
    run("towards zero", convert_towards_zero, torch.randn(4096), torch.empty(4096, dtype=torch.bfloat16), N=4096)

    for name, dtype in {"fp32": torch.float32, **SMALL_FLOATS}.items():
        torch.manual_seed(0)
        # Small multiples of 1/4: exact in every format, and so is their product in whatever order it is summed.
        a, b = (torch.randint(-8, 9, (2, 32, 32)) / 4).to(dtype)
        for accumulator in (torch.float32, torch.float16) if name == "fp16" else (torch.float32,):
            acc = (torch.randint(-8, 9, (32, 32)) / 4).to(accumulator)
            run(
                f"dot {name} {str(accumulator)[6:]}",
                multiply_matrices,
                a,
                b,
                acc,
                torch.empty(32, 32, dtype=accumulator),
                N=32,
            )
    noise = torch.randn(2, 32, 32).to(torch.bfloat16)
    run("dot noise", multiply_matrices, noise[0], noise[1], torch.zeros(32, 32), torch.empty(32, 32), N=32)

    for name in ("bf16", "fp16"):
        torch.manual_seed(0)
        a, b = torch.randn(2, 1024).to(SMALL_FLOATS[name])
        a[:4], b[2:6] = float("nan"), float("nan")
        for to in (SMALL_FLOATS[name], torch.float32):
            run(f"calculate {name} {str(to)[6:]}", calculate, a, b, torch.empty(13, 1024, dtype=to), scale=0.3, N=1024)
        x = torch.randn(64, 64).to(SMALL_FLOATS[name])
        x[0, :5], x[1], x[2, 3] = float("nan"), float("nan"), float("-inf")
        run(f"reduce {name}", reduce_rows, x, torch.empty(3, 64), N=64)
        run(f"reduce with function {name}", reduce_with_function, x[3:19, 3:19].contiguous(), torch.empty(16), N=16)
    kept = torch.full((16,), -7.0, dtype=torch.bfloat16)
    run("masked", copy_masked, torch.arange(16.0).to(torch.bfloat16), kept, torch.tensor([5]), flag=True, N=16)
    saved["masked"]["out"] = kept
    torch.save(saved, output)


if __name__ == "__main__":
    main(sys.argv[1])
