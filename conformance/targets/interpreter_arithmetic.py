"""Mends of the arithmetic of Triton's interpreter, so that it computes what compiled Triton computes.

* bfloat16 and float8 are kept as integers, and left alone the interpreter multiplies, adds and reduces the integers.
  Hardware computes on the values and rounds once: operands are widened to float32, NumPy computes, and the result is
  rounded to the nearest, ties to even.
* A float argument is a float32 to compiled Triton. Left alone it stays a Python number, which takes the type of the
  other operand: `q * scale` with a bfloat16 `q` would be computed in bfloat16.
* `maximum` and `minimum` return the other operand where one is NaN, unless asked to propagate it.
* A sum in 16 bits or fewer rounds after every addition. It goes by halves, as the lanes of a GPU add; how many terms a
  lane adds up by itself before that is the compiler's choice, so that hardware may round somewhat more.

Known to differ still: a number that a kernel assigns to a variable becomes a float32 (compiled Triton keeps it a
number); a product and a sum are never fused; exp2, log2 and division are NumPy's, right to the last place or nearly.
`fp8e4b15`, which torch does not have, is converted as the interpreter always did: unreliably.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.targets.low_precision import FORMATS, narrow, truncate_to_bfloat16, widen
from conformance.targets.triton_internals import known


def mend(interpreter: Any) -> None:
    """Replaces what computes otherwise than hardware; `interpreter` is the module `triton.runtime.interpreter`."""
    _mend_conversions(interpreter)
    _mend_operations(interpreter)
    _mend_reductions(interpreter)
    _mend_arguments(interpreter)
    _mend_language(interpreter)


def _is_low_precision(operand: Any) -> bool:
    # The data decide first: a comparison's handle carries its operands' type beside boolean data.
    return operand.data.dtype.kind == "u" and operand.dtype.scalar.name in FORMATS


def _values(operand: Any) -> np.ndarray:
    return widen(operand.data, operand.dtype.scalar.name) if _is_low_precision(operand) else operand.data


def _mend_conversions(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, known(interpreter, "TensorHandle", "data", "dtype", "attr")
    storage = known(interpreter, "_get_np_dtype", "tt_dtype")
    convert = known(builder, "create_fp_to_fp", "self", "src", "dst_type", "rounding_mode")
    known(builder, "cast_impl", "self", "src", "dst_type")
    towards_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def cast(_self: Any, source: Any, to: Any) -> Any:
        to = to.scalar
        if to.name in FORMATS:
            return handle(narrow(_values(source), to.name), to)
        return handle(_values(source).astype(storage(to)), to)

    def fp_to_fp(self: Any, source: Any, to: Any, rounding: Any) -> Any:
        names = (source.dtype.scalar.name, to.scalar.name)
        if "fp8e4b15" in names:
            return convert(self, source, to, rounding)
        if rounding != towards_zero:
            return cast(self, source, to)
        if names == ("fp32", "bf16"):
            return handle(truncate_to_bfloat16(source.data), to.scalar)
        raise NotImplementedError(f"{names[0]} to {names[1]}, rounded towards zero, is not interpreted")

    def bfloat16_constant(_self: Any, value: float) -> Any:
        import triton.language as tl

        return handle(narrow(np.array([value]), "bf16"), tl.bfloat16)

    builder.cast_impl = cast
    builder.create_fp_to_fp = fp_to_fp
    builder.get_bf16 = bfloat16_constant


def _mend_operations(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    unary = known(builder, "unary_op", "self", "arg", "op")
    binary = known(builder, "binary_op", "self", "lhs", "rhs", "op")
    fma = known(builder, "create_fma", "self", "x", "y", "z")
    known(builder, "create_dot", "self", "a", "b", "d", "input_precision", "max_num_imprecise_acc")

    def rounded(result: np.ndarray, dtype: Any) -> Any:
        if result.dtype == np.bool_:
            return handle(result, dtype.scalar)
        return handle(narrow(result, dtype.scalar.name), dtype.scalar)

    def unary_op(self: Any, x: Any, op: Any) -> Any:  # by which Triton negates from 3.8 on
        return rounded(op(_values(x)), x.dtype) if _is_low_precision(x) else unary(self, x, op)

    def binary_op(self: Any, x: Any, y: Any, op: Any) -> Any:
        return rounded(op(_values(x), _values(y)), x.dtype) if _is_low_precision(x) else binary(self, x, y, op)

    def multiply_add(self: Any, x: Any, y: Any, z: Any) -> Any:
        return rounded(_values(x) * _values(y) + _values(z), z.dtype) if _is_low_precision(z) else fma(self, x, y, z)

    def dot(_self: Any, a: Any, b: Any, accumulator: Any, _input_precision: Any, _imprecise: Any) -> Any:
        # Matrix units multiply small formats exactly and add in the accumulator's precision.
        product = np.matmul(_values(a), _values(b), dtype=accumulator.data.dtype)
        return handle(product + accumulator.data, accumulator.dtype.scalar)

    builder.unary_op = unary_op
    builder.binary_op = binary_op
    builder.create_fma = multiply_add
    builder.create_dot = dot
    known(builder, "create_maxnumf", "self", "lhs", "rhs")
    known(builder, "create_minnumf", "self", "lhs", "rhs")
    builder.create_maxnumf = lambda self, x, y: self.binary_op(x, y, np.fmax)
    builder.create_minnumf = lambda self, x, y: self.binary_op(x, y, np.fmin)


def _mend_reductions(interpreter: Any) -> None:
    import triton.language as tl

    reduce = known(interpreter.ReduceOps, "apply_impl", "self", "input")
    scan = known(interpreter.ScanOps, "apply_impl", "self", "input")
    known(interpreter.ReduceOps, "min_max", "self", "input", "val_reduce_op", "idx_reduce_op")
    # NumPy's nanmax and nanmin are these, and a warning where a row is all NaN.
    extremes = {
        known(tl.standard, "_elementwise_max"): np.fmax.reduce,
        known(tl.standard, "_elementwise_min"): np.fmin.reduce,
    }

    add = known(tl.standard, "_sum_combine")

    def apply_reduce(self: Any, input: Any) -> Any:
        if self.combine_fn is add and _name_of(input[0]) in _SUMMED_BY_HALVES:
            x = input[0].handle
            axis = self.axis if self.axis is not None else 0
            total = _sum_by_halves(x.data if self.axis is not None else x.data.reshape(-1), axis, x.dtype.scalar.name)
            if self.keep_dims:
                total = np.expand_dims(total, axis if self.axis is not None else tuple(range(x.data.ndim)))
            return self.to_tensor(total, input[0].dtype)
        if any(_is_low_precision(x.handle) for x in input):
            return self.generic_reduce(input)  # step by step, through the mended operations
        if self.combine_fn in extremes:
            return self.min_max(input[0], val_reduce_op=extremes[self.combine_fn])
        return reduce(self, input)

    def apply_scan(self: Any, input: Any) -> Any:
        if any(_is_low_precision(x.handle) for x in input):
            raise NotImplementedError("a scan of bfloat16 or float8 is not interpreted")
        return scan(self, input)

    interpreter.ReduceOps.apply_impl = apply_reduce
    interpreter.ScanOps.apply_impl = apply_scan


_SUMMED_BY_HALVES = {"fp16", *FORMATS}


def _name_of(tensor: Any) -> str:
    return tensor.handle.dtype.scalar.name


def _sum_by_halves(stored: np.ndarray, axis: int, name: str) -> np.ndarray:
    """The sum along an axis whose length is a power of two, as every tensor's of Triton is."""
    terms = np.moveaxis(stored, axis, 0)
    while len(terms) > 1:
        first, second = terms[: len(terms) // 2], terms[len(terms) // 2 :]
        terms = narrow(widen(first, name) + widen(second, name), name) if name in FORMATS else first + second
    return terms[0]


def _mend_arguments(interpreter: Any) -> None:
    import triton.language as tl

    convert, handle = known(interpreter, "_implicit_cvt", "arg"), interpreter.TensorHandle

    def argument(arg: Any) -> Any:
        if isinstance(arg, bool):
            return tl.tensor(handle(np.array([arg], dtype=np.bool_), tl.int1), tl.int1)
        if isinstance(arg, float):
            return tl.tensor(handle(np.array([arg], dtype=np.float32), tl.float32), tl.float32)
        return convert(arg)

    interpreter._implicit_cvt = argument


def _mend_language(interpreter: Any) -> None:
    patch_tensor = known(interpreter, "_patch_lang_tensor", "tensor", "scope")
    patch_core = known(interpreter, "_patch_lang_core", "lang", "scope")

    def tensor_as_interpreted(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        # Triton 3.6 converts an array of one element as such, which NumPy 2.4 refuses.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def language_as_interpreted(lang: Any, scope: Any) -> None:
        patch_core(lang, scope)
        # In the interpreter a type's "IR" is the type; Triton looks it up by name, and misses AMD's float8 types.
        scope.set_attr(lang.dtype, "to_ir", lambda self, _builder: self)

    interpreter._patch_lang_tensor = tensor_as_interpreted
    interpreter._patch_lang_core = language_as_interpreted
