"""Shortcuts through Triton's front end, whose bookkeeping takes most of an interpreted kernel's time.

Each gives what the long way gives: it remembers a value that depends on a shape or a type alone, or skips a conversion
between equals. None of them touches the data of a tensor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from conformance.targets.triton_internals import known


def take(interpreter: Any) -> None:
    """Shortens look-ups of types and the checks of binary operations; `interpreter` is `triton.runtime.interpreter`."""
    interpreter._get_np_dtype = _remembered(known(interpreter, "_get_np_dtype", "tt_dtype"))
    semantic = known(interpreter, "interpreter_semantic")
    _skip_checks_between_equals(semantic)
    _skip_broadcasts_between_equals(semantic)


def take_in_language(scope: Any) -> None:
    """Shortens the making of tensors and types while `scope`, the language as the interpreter sees it, is in place."""
    from triton.language import core

    known(core.tensor, "__init__", "self", "handle", "type")
    known(core.block_type, "to_ir", "self", "builder")
    with_element_type = known(core.block_type, "with_element_ty", "self", "scalar_ty")
    scope.set_attr(core.tensor, "__init__", _tensor_init(core))
    scope.set_attr(core.block_type, "__init__", _block_type_init(core))
    # In the interpreter a type's "IR" is the type itself, and the long way makes an equal one.
    scope.set_attr(core.block_type, "to_ir", lambda self, _builder: self)
    scope.set_attr(
        core.block_type,
        "with_element_ty",
        lambda self, scalar: self if scalar is self.element_ty else with_element_type(self, scalar),
    )


def _remembered(np_dtype_of: Any) -> Any:
    """`_get_np_dtype`, which builds its whole table for each look-up, with answers kept by the scalar type's name."""
    remembered: dict[str, np.dtype] = {}

    def np_dtype(tt_dtype: Any) -> np.dtype:
        name = tt_dtype.scalar.name
        if name not in remembered:
            remembered[name] = np_dtype_of(tt_dtype)
        return remembered[name]

    return np_dtype


def _skip_checks_between_equals(semantic: Any) -> None:
    parameters = ("lhs", "rhs", "allow_lhs_ptr", "allow_rhs_ptr", "arithmetic_check", "div_or_mod")
    check = known(semantic, "binary_op_type_checking_impl", *parameters)
    tensor = semantic.tensor

    def checked(x: Any, y: Any, allow_x_ptr: bool = False, allow_y_ptr: bool = False, *rest: Any, **named: Any) -> Any:
        if type(x) is tensor and type(y) is tensor and _same_type(x.type, y.type) and _keeps_type(x.dtype, rest, named):
            return x, y
        return check(x, y, allow_x_ptr, allow_y_ptr, *rest, **named)

    semantic.binary_op_type_checking_impl = checked


def _keeps_type(scalar: Any, rest: tuple[bool, ...], named: dict[str, bool]) -> bool:
    """Whether an operation on two of type `scalar` yields it too: pointers may be refused, halves divide in float32."""
    if scalar.is_ptr():
        return False
    divides = named.get("div_or_mod", len(rest) > 1 and rest[1])
    return not (divides and scalar.primitive_bitwidth == 16)


def _skip_broadcasts_between_equals(semantic: Any) -> None:
    broadcast = known(semantic, "broadcast_impl_value", "lhs", "rhs")

    def broadcast_together(x: Any, y: Any) -> Any:
        return (x, y) if _same_shape(x.type, y.type) else broadcast(x, y)

    semantic.broadcast_impl_value = broadcast_together


def _same_type(x: Any, y: Any) -> bool:
    return x is y or (x.scalar == y.scalar and _same_shape(x, y))


def _same_shape(x: Any, y: Any) -> bool:
    if x.is_block() and y.is_block():
        return x.shape.values == y.shape.values
    return not x.is_block() and not y.is_block()


def _tensor_init(core: Any) -> Any:
    """`tensor.__init__`, with shape and size of each block shape made once."""
    made: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:
        shape = tuple(type.shape.values) if type.is_block() else ()
        if shape not in made:
            made[shape] = core.tuple([core.constexpr(size) for size in shape]), core.constexpr(math.prod(shape))
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = made[shape]

    return init


def _block_type_init(core: Any) -> Any:
    """`block_type.__init__`, with what follows from a shape and an element type worked out, and checked, once."""
    init = known(core.block_type, "__init__", "self", "element_ty", "shape")
    made: dict[tuple[Any, ...], tuple[Any, int, str]] = {}

    def short_init(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(core._unwrap_if_constexpr(size) for size in shape))
        if key not in made:
            init(self, element_ty, shape)
            made[key] = self.shape, self.numel, self.name
        self.element_ty = element_ty
        self.shape, self.numel, self.name = made[key]

    return short_init
