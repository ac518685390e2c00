"""The one place where numba is asked to compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "COPIED",
    "LANE",
    "bytes_within",
    "compiled",
    "copy_block",
    "hash_bytes",
    "kernel",
    "load_word",
    "trailing_zeros",
]

LANE = 64
"""Bytes that `bytes_within` and `hash_bytes` look at."""

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
    return cast(
        Callable[P, R], numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)(function)
    )


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


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def load_word(context: Any, source: Any, at: Any) -> Any:
    """Load eight bytes of a byte array as a number, the first one lowest; in kernels only."""

    def generate(code: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        proxy = cgutils.create_struct_proxy(signature.args[0])
        data = proxy(code, builder, value=arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(source, at), generate


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def trailing_zeros(context: Any, number: Any) -> Any:
    """Return the place of the lowest set bit of an unsigned 64-bit number, which must not be 0; in kernels only."""

    def generate(code: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


def _lane(code: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Load `LANE` bytes of the array that is the first argument, from the place that is the second."""
    data = cgutils.create_struct_proxy(signature.args[0])(code, builder, value=arguments[0]).data
    vector = ir.VectorType(ir.IntType(8), LANE)
    return builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer()), align=1)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    """Repeat a value in every lane of a vector."""
    vector = ir.VectorType(value.type, lanes)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), order)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def bytes_within(context: Any, source: Any, at: Any, first: Any, count: Any) -> Any:
    """Return a bit for each of `LANE` bytes, the first one lowest: whether it is one of ``count`` from ``first`` on."""

    def generate(code: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lane = _lane(code, builder, signature, arguments)
        first, count = (_splat(builder, builder.trunc(number, ir.IntType(8)), LANE) for number in arguments[2:])
        found = builder.icmp_unsigned("<", builder.sub(lane, first), count)
        return builder.bitcast(found, ir.IntType(LANE))

    return types.uint64(source, at, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def hash_bytes(context: Any, source: Any, at: Any, kept: Any) -> Any:
    """Hash those of `LANE` bytes whose bit in ``kept`` is set, in their places."""

    def generate(code: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lane = _lane(code, builder, signature, arguments)
        kept = builder.bitcast(arguments[2], ir.VectorType(ir.IntType(1), LANE))
        lane = builder.select(kept, lane, ir.Constant(lane.type, [0] * LANE))
        words = LANE // 8
        vector = ir.VectorType(ir.IntType(64), words)

        def constant(numbers: list[int]) -> Any:
            return ir.Constant(vector, [number % 2**64 for number in numbers])

        mixed = builder.bitcast(lane, vector)
        # Every word has constants of its own, so that equal words in other places count differently.
        mixed = builder.add(mixed, constant([0x9E3779B97F4A7C15 * (word + 1) for word in range(words)]))
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            mixed = builder.mul(mixed, constant([factor] * words))
            mixed = builder.xor(mixed, builder.lshr(mixed, constant([32] * words)))
        total = builder.extract_element(mixed, ir.IntType(32)(0))
        for word in range(1, words):
            total = builder.add(total, builder.extract_element(mixed, ir.IntType(32)(word)))
        return total

    return types.uint64(source, at, types.uint64), generate
