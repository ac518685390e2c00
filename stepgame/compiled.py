"""The one place where numba is asked to compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["COPIED", "compiled", "copy_block", "kernel"]

P = ParamSpec("P")
R = TypeVar("R")

COPIED = 32
"""Bytes that `copy_block` moves at once."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a numeric function on first use; the result is cached on disk and releases the GIL."""
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `compiled`, for functions that work in their caller's arrays and make none of their own.

    Such a function needs no reference counts, and without them small functions over arrays run several times
    faster (`_nrt` is numba's name for its run-time of counted memory). Slicing and returning arrays are out.
    """
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function))


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def copy_block(context: Any, target: Any, at: Any, source: Any, start: Any) -> Any:
    """Copy `COPIED` bytes between two byte arrays: ``copy_block(target, at, source, start)``, in kernels only.

    One load and one store of a vector, whatever the places are aligned to. Both arrays must have room for it.
    """

    def generate(code: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), COPIED).as_pointer()
        places = []
        for array, place in ((0, 1), (2, 3)):
            proxy = cgutils.create_struct_proxy(signature.args[array])
            data = proxy(code, builder, value=arguments[array]).data
            places.append(builder.bitcast(builder.gep(data, [arguments[place]]), vector))
        builder.store(builder.load(places[1], align=1), places[0], align=1)
        return code.get_dummy_value()

    return types.void(target, at, source, start), generate
