"""Loads and integer arithmetic that LLVM turns into vector instructions (Numba intrinsics).

The inner loops of the projector run along one ray, sixteen samples in one instruction where the processor has AVX-512. LLVM
vectorises such a loop by itself if three things hold, and plain Numba code breaks two of them: indices must stay 32 bits wide
(Numba widens every sum to 64, and a gather by 64-bit indices moves half as many voxels), an index must not be checked for being
negative, and a reduction may be reordered. So voxels are loaded by address and 32-bit index, and the corners of a cell are the
same index from different addresses. Sums across blocks of samples stay in a fixed order: see ``cpu_forward``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic

# how a stored voxel is read: the number itself, or 16 bits of it
FLOAT32, INT16, FLOAT16, BFLOAT16 = 0, 1, 2, 3

FASTMATH = {"contract", "nsz", "arcp", "reassoc", "nnan", "ninf"}


def _element(builder: Any, address: Any, index: Any, kind: ir.Type) -> Any:
    pointer = builder.inttoptr(address, kind.as_pointer())
    return builder.gep(pointer, [builder.sext(index, ir.IntType(64))], inbounds=True)


@intrinsic
def imul(typingctx, a, b):  # type: ignore[no-untyped-def]
    """a * b, 32 bits, assumed not to overflow."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.mul(*args, flags=("nsw",))

    return types.int32(types.int32, types.int32), code


@intrinsic
def iadd(typingctx, a, b):  # type: ignore[no-untyped-def]
    """a + b, 32 bits, assumed not to overflow."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.add(*args, flags=("nsw",))

    return types.int32(types.int32, types.int32), code


def _converted(builder: Any, bits: Any, storage: int) -> Any:
    """16 bits of an integer as a float32."""
    if storage == INT16:
        return builder.sitofp(bits, ir.FloatType())
    if storage == FLOAT16:
        return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())
    wide = builder.shl(builder.zext(bits, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
    return builder.bitcast(wide, ir.FloatType())


def _one(builder: Any, address: Any, index: Any, storage: int) -> Any:
    if storage == FLOAT32:
        return builder.load(_element(builder, address, index, ir.FloatType()))
    # 32 bits, of which the lower half counts: processors gather no 16-bit elements
    at = _element(builder, address, index, ir.IntType(16))
    both = builder.load(builder.bitcast(at, ir.IntType(32).as_pointer()), align=2)
    return _converted(builder, builder.trunc(both, ir.IntType(16)), storage)


def _two(builder: Any, address: Any, index: Any, storage: int) -> list[Any]:
    if storage == FLOAT32:
        at = _element(builder, address, index, ir.FloatType())
        return [builder.load(at), builder.load(builder.gep(at, [ir.Constant(ir.IntType(64), 1)], inbounds=True))]
    at = _element(builder, address, index, ir.IntType(16))
    both = builder.load(builder.bitcast(at, ir.IntType(32).as_pointer()), align=2)
    high = builder.lshr(both, ir.Constant(ir.IntType(32), 16))
    return [_converted(builder, builder.trunc(bits, ir.IntType(16)), storage) for bits in (both, high)]


# The storage type is a constant where these are compiled. It is an argument, not part of a function made for it, because only
# plain constants may be enclosed in a kernel that is to be found in Numba's cache again.


@intrinsic(prefer_literal=True)
def load_one(typingctx, address, index, storage):  # type: ignore[no-untyped-def]
    """The voxel ``index`` places after ``address``, as float32."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _one(builder, args[0], args[1], storage.literal_value)

    return types.float32(types.uintp, types.int32, storage), code


@intrinsic(prefer_literal=True)
def load_pair(typingctx, address, index, storage):  # type: ignore[no-untyped-def]
    """That voxel and the one beside it; of two-byte voxels both by one load."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return cgutils.pack_array(builder, _two(builder, args[0], args[1], storage.literal_value))

    return types.UniTuple(types.float32, 2)(types.uintp, types.int32, storage), code


@intrinsic
def add_pair(typingctx, target, index, source, offset):  # type: ignore[no-untyped-def]
    """target[index : index + 2] += source[offset : offset + 2], float32, addresses and 32-bit indices."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        # one by one: the next sample often adds to one of these two, and a load that overlaps half of an earlier store waits
        for k in (0, 1):
            shift = ir.Constant(ir.IntType(64), k)
            to = builder.gep(_element(builder, args[0], args[1], ir.FloatType()), [shift], inbounds=True)
            by = builder.gep(_element(builder, args[2], args[3], ir.FloatType()), [shift], inbounds=True)
            builder.store(builder.fadd(builder.load(to), builder.load(by)), to)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int32, types.uintp, types.int32), code


@intrinsic
def add_both(typingctx, target, index, source, offset):  # type: ignore[no-untyped-def]
    """As ``add_pair`` by one instruction each: where the next sample does not add to either."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        two = ir.VectorType(ir.FloatType(), 2).as_pointer()
        to = builder.bitcast(_element(builder, args[0], args[1], ir.FloatType()), two)
        by = builder.bitcast(_element(builder, args[2], args[3], ir.FloatType()), two)
        builder.store(builder.fadd(builder.load(to, align=4), builder.load(by, align=4)), to, align=4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int32, types.uintp, types.int32), code


@intrinsic
def add_one(typingctx, target, index, value):  # type: ignore[no-untyped-def]
    """target[index] += value, float32."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        to = _element(builder, args[0], args[1], ir.FloatType())
        builder.store(builder.fadd(builder.load(to), args[2]), to)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int32, types.float32), code


def _place(builder: Any, address: Any, index: Any, kind: ir.Type) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index], inbounds=True)


@intrinsic
def store_float(typingctx, address, index, value):  # type: ignore[no-untyped-def]
    """The float32 ``index`` places after ``address`` becomes ``value``; of 64 bits, so that LLVM sees what overlaps."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _place(builder, args[0], args[1], ir.FloatType()))
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64, types.float32), code


@intrinsic
def store_int(typingctx, address, index, value):  # type: ignore[no-untyped-def]
    """The int32 ``index`` places after ``address`` becomes ``value``."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _place(builder, args[0], args[1], ir.IntType(32)))
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64, types.int32), code
