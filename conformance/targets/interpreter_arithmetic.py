"""Mends of the arithmetic of Triton's interpreter, which keeps bfloat16 and float8 as integers and computes on the integers.

Hardware computes on the values and rounds once. After `mend`, so does the interpreter: operands are widened to float32, the
operation is NumPy's, the result is rounded to nearest even. Everything else is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.targets.low_precision import FORMATS, narrow, truncate_to_bfloat16, widen


def mend(interpreter: Any) -> None:
    """Replaces the builder operations that take bfloat16 or float8 for integers; `interpreter` is `triton.runtime.interpreter`."""
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    storage = interpreter._get_np_dtype
    rounding_towards_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def is_low_precision(operand: Any) -> bool:
        # A comparison's handle keeps its operands' type beside boolean data: the data decide.
        scalar = operand.dtype.scalar
        return scalar.name in FORMATS and operand.data.dtype == storage(scalar)

    def values(operand: Any) -> np.ndarray:
        return widen(operand.data, operand.dtype.scalar.name) if is_low_precision(operand) else operand.data

    def stored(data: np.ndarray, dtype: Any) -> Any:
        dtype = dtype.scalar
        if dtype.name in FORMATS and data.dtype != np.bool_:
            return handle(narrow(data, dtype.name), dtype)
        return handle(data, dtype)

    def mended_cast(self: Any, source: Any, to: Any) -> Any:
        if to.scalar.name in FORMATS:
            return handle(narrow(values(source), to.scalar.name), to.scalar)
        return handle(values(source).astype(storage(to)), to.scalar)

    def mended_fp_to_fp(self: Any, source: Any, to: Any, rounding: Any) -> Any:
        if rounding == rounding_towards_zero:
            if to.scalar.name == "bf16":
                return handle(truncate_to_bfloat16(values(source)), to.scalar)
            raise NotImplementedError(f"rounding towards zero to {to.scalar.name} is not interpreted")
        return mended_cast(self, source, to)

    def on_values(original: Any) -> Any:
        """`original(self, *operands, op)` on float32 values where an operand is of a small format."""

        def mended(self: Any, *operands_and_op: Any) -> Any:
            *operands, op = operands_and_op
            if not any(map(is_low_precision, operands)):
                return original(self, *operands, op)
            return stored(op(*map(values, operands)), operands[-1].dtype)

        return mended

    def mended_dot(self: Any, a: Any, b: Any, accumulator: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        # Matrix units multiply small formats exactly and add in the accumulator's precision: float32, or float16 on request.
        product = np.matmul(values(a), values(b), dtype=accumulator.data.dtype)
        return handle(product + accumulator.data, accumulator.dtype.scalar)

    def mended_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        return stored(values(x) * values(y) + values(z), z.dtype)

    def bfloat16_constant(self: Any, value: float) -> Any:
        import triton.language as tl

        return stored(np.array([value], dtype=np.float32), tl.bfloat16)

    builder.cast_impl = mended_cast
    builder.create_fp_to_fp = mended_fp_to_fp
    builder.binary_op = on_values(builder.binary_op)
    builder.unary_op = on_values(builder.unary_op)
    builder.create_dot = mended_dot
    builder.create_fma = mended_fma
    builder.get_bf16 = bfloat16_constant
