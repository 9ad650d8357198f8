"""The rules in Numba, compiled at first use: for installations without the extension.

The engine runs the table of :mod:`.step_table` by address, as ``src/step_table.h`` does: ``run_range`` steps a part of
it and calls a loop for each piece of memory. A loop is compiled when a table first needs it, and is kept on disk where
Numba finds a folder that can be written. The rules are branch-free and give the same bits as ``src/rules.h``. Large
steps are shared among libgomp's threads (Numba's own parallel layers kill a forked child or abort on concurrent Python
threads).
"""

import ctypes
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # llvmlite has no types
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]  # numba does not say that it exports carray
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ..hyperparameters import Hyperparameters
from ..loss import NOT_WORSE, LossOutcome
from ..rules import BACKTRACK, BACKTRACK_ALL, MOVE, RULE_FOR_OUTCOME, SKIP, TORCH
from ..state import encoding_of
from . import step_table as table
from . import threads

UPDATES: Final = RULE_FOR_OUTCOME

FORGET, STOP, N_LOOPS = range(TORCH + 1, TORCH + 4)
"""The loops of a dtype behind those of the five rules: frozen weights forget their signs; weights stop at bounds."""
GATHER_SIZE: Final = 256
"""Weights copied at a time from arrays that are not dense, and weights with options stepped at a time."""
MIN_ALIGNED_RUN: Final = 4096
"""Weights from which a start at a cache line pays; NumPy's arrays mostly start 16 bytes off."""
CACHE_LINE: Final = 64
ROW_SIZE: Final = 8 * table.ROW_COLUMNS
THREAD_BLOCK: Final = 64
"""Threads meet at multiples of this number of weights, so that they share few cache lines."""

# ------------------------------------------------------------------------------------------- memory and calls

CPointer: Any = types.CPointer  # not annotated in Numba
unpack_tuple: Any = cgutils.unpack_tuple
byte: Final = np.uint8(0)


@intrinsic
def _pointer_to(typing_context: Any, address: Any, like: Any) -> Any:
    """Convert an address to a pointer to the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return CPointer(like)(address, like), generate


@intrinsic
def _load(typing_context: Any, address: Any, like: Any) -> Any:
    """Return the number of the type of ``like`` at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], context.get_value_type(like).as_pointer()))

    return like(address, like), generate


@intrinsic
def _store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a number to an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        return context.get_dummy_value()

    return types.void(address, value), generate


@intrinsic
def _item(typing_context: Any, address: Any, index: Any) -> Any:
    """Return an item of an array of int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _set_item(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
    """Write an item of an array of int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), [args[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _stack(size: int) -> Any:
    """Make the function that returns the address of ``size`` bytes of its caller's stack."""

    @intrinsic
    def stack(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            with builder.goto_entry_block():  # cgutils.alloca_once would write zeros, one by one
                memory = builder.alloca(ir.ArrayType(ir.IntType(8), size))
                memory.align = CACHE_LINE
            return builder.ptrtoint(memory, ir.IntType(64))

        return types.int64(), generate

    return stack


@intrinsic
def _call_loop(typing_context: Any, address: Any, arguments: Any) -> Any:
    """Call a C function at an address with a tuple of int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = unpack_tuple(builder, args[1])
        function = ir.FunctionType(ir.VoidType(), [number.type for number in numbers])
        builder.call(builder.inttoptr(args[0], function.as_pointer()), numbers)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


@intrinsic
def _call_query(typing_context: Any, address: Any) -> Any:
    """Call a C function at an address that returns an int."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), [])

    return types.int32(address), generate


@intrinsic
def _mulsign(typing_context: Any, x: Any, y: Any) -> Any:
    """Return x, negated where y has its sign bit set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = ir.IntType(signature.return_type.bitwidth)
        a, b = (builder.bitcast(value, bits) for value in args)
        sign = builder.and_(b, bits(1 << (bits.width - 1)))
        return builder.bitcast(builder.xor(a, sign), args[0].type)

    return x(x, x), generate


class _Float32Builder:
    """Instructions on 32-bit integers and floats, for the conversions of ``src/half.h``."""

    def __init__(self, builder: Any) -> None:
        self.builder, self.i32, self.f32 = builder, ir.IntType(32), ir.FloatType()

    def bits(self, x: Any) -> Any:
        """Return the bits of a float."""
        return self.builder.bitcast(x, self.i32)

    def real(self, x: Any) -> Any:
        """Return the float of some bits."""
        return self.builder.bitcast(x, self.f32)

    def select(self, operator: str, x: Any, limit: int, then: Any, otherwise: Any) -> Any:
        """Select by a comparison of unsigned integers."""
        then, otherwise = (self.i32(value) if isinstance(value, int) else value for value in (then, otherwise))
        return self.builder.select(self.builder.icmp_unsigned(operator, x, self.i32(limit)), then, otherwise)

    def apply(self, name: str, x: Any, constant: int) -> Any:
        """Apply an operation to an integer and a constant."""
        return getattr(self.builder, name)(x, self.i32(constant))


def _from_half(builder: Any, half: Any) -> Any:
    b = _Float32Builder(builder)
    bits = builder.zext(half, b.i32)
    sign = b.apply("shl", b.apply("and_", bits, 0x8000), 16)
    magnitude = b.apply("and_", bits, 0x7FFF)
    rebias = b.select("<", magnitude, 0x7C00, 112 << 23, 224 << 23)  # inf and NaN keep all exponent bits
    normal = builder.add(b.apply("shl", magnitude, 13), rebias)
    denormal = b.bits(builder.fmul(builder.sitofp(magnitude, b.f32), b.f32(2.0**-24)))
    return b.real(builder.or_(b.select("<", magnitude, 0x0400, denormal, normal), sign))


def _to_half(builder: Any, x: Any) -> Any:
    b = _Float32Builder(builder)
    bits = b.bits(x)
    sign = b.apply("and_", b.apply("lshr", bits, 16), 0x8000)
    magnitude = b.apply("and_", bits, 0x7FFFFFFF)
    odd = b.apply("and_", b.apply("lshr", magnitude, 13), 1)
    normal = b.apply("lshr", b.apply("sub", builder.add(b.apply("add", magnitude, 0xFFF), odd), 112 << 23), 13)
    denormal = b.apply("sub", b.bits(builder.fadd(b.real(magnitude), b.f32(0.5))), 0x3F000000)  # 0.5 has the ulp 2^-24
    finite = b.select("<", magnitude, 0x38800000, denormal, normal)
    finite = b.select(">", finite, 0x7C00, 0x7C00, finite)
    finite = b.select(">", magnitude, 0x7F7FFFFF, 0x7C00, finite)
    finite = b.select(">", magnitude, 0x7F800000, 0x7E00, finite)
    return builder.trunc(builder.or_(finite, sign), ir.IntType(16))


def _from_bfloat16(builder: Any, half: Any) -> Any:
    b = _Float32Builder(builder)
    return b.real(b.apply("shl", builder.zext(half, b.i32), 16))


def _to_bfloat16(builder: Any, x: Any) -> Any:
    b = _Float32Builder(builder)
    bits = b.bits(x)
    odd = b.apply("and_", b.apply("lshr", bits, 16), 1)
    rounded = b.apply("lshr", builder.add(b.apply("add", bits, 0x7FFF), odd), 16)
    return builder.trunc(b.select(">", b.apply("and_", bits, 0x7FFFFFFF), 0x7F800000, 0x7FC0, rounded), ir.IntType(16))


_TO_FLOAT: Final = {table.HALF: _from_half, table.BFLOAT16: _from_bfloat16}
_FROM_FLOAT: Final = {table.HALF: _to_half, table.BFLOAT16: _to_bfloat16}


@intrinsic(prefer_literal=True)
def _widen(typing_context: Any, x: Any, dtype: Any) -> Any:
    """Return a stored number in the type in which a loop computes; ``dtype`` is a constant."""
    convert = _TO_FLOAT.get(dtype.literal_value)
    result = types.float32 if convert else x
    return result(x, dtype), lambda context, builder, signature, args: convert(builder, args[0]) if convert else args[0]


@intrinsic(prefer_literal=True)
def _narrow(typing_context: Any, x: Any, dtype: Any) -> Any:
    """Return a number as it is stored; ``dtype`` is a constant."""
    convert = _FROM_FLOAT.get(dtype.literal_value)
    result = types.uint16 if convert else x
    return result(x, dtype), lambda context, builder, signature, args: convert(builder, args[0]) if convert else args[0]


pointer: Any = _pointer_to  # as compiled code calls them: without the typing context
load: Any = _load
store: Any = _store
item: Any = _item
set_item: Any = _set_item
call_loop: Any = _call_loop
call_query: Any = _call_query
mulsign: Any = _mulsign
widen: Any = _widen
narrow: Any = _narrow

# -------------------------------------------------------------------------------------------------- loops

# The loops are made for a dtype of the parameters. 16-bit numbers are computed as float32, and rounded wherever torch
# rounds. ``numbers`` are hyper-parameters in the type of the computation.

STORED: Final = (np.float32, np.float64, np.uint16, np.uint16)
TINY: Final = (0.0, 0.0, 2.0**-25, 2.0**-134)
"""The largest product that a dtype rounds to 0."""


def _real(dtype: int) -> type:
    """Return the type in which loops compute, which is that of states with one array."""
    return np.float64 if dtype == table.DOUBLE else np.float32


def _weight_rule(real: type, rule: int) -> Callable[..., Any]:
    """Make one of the four rules for a weight: its new value, not yet rounded to half precision, and its new state."""
    encoding = encoding_of(np.dtype(real))
    zero, one = real(0), real(1)
    SHIFT, UNSHIFT = real(encoding.shift), real(1 / encoding.shift)
    THRESHOLD = real(encoding.threshold)
    moves_on_flip, backtracks, backtracks_all = rule == MOVE, rule in (BACKTRACK, BACKTRACK_ALL), rule == BACKTRACK_ALL

    def update(
        w: Any, g: Any, state: Any, eta_minus: Any, eta_plus: Any, step_min: Any, step_max: Any, rule: Any
    ) -> Any:
        # Both sides of a select are values, so that no branch is left.
        size = abs(state)
        c = -one if backtracks_all else mulsign(state, g)  # has the sign of sign(g) * q, if both exist
        has_sign = size <= THRESHOLD
        has_grad = abs(g) > zero  # neither 0 nor NaN
        compared = has_sign if backtracks_all else has_sign & has_grad
        flipped = compared & (c < zero)
        moves = False if backtracks_all else (has_grad if moves_on_flip else has_grad & (not flipped))
        unshifted = size * UNSHIFT
        unscaled = size if has_sign else unshifted
        scaled = size * (eta_minus if c < zero else eta_plus)
        step = scaled if compared else unscaled
        step = step_min if step < step_min else step
        step = step_max if step > step_max else step
        move = mulsign(step, g)
        shifted = step * SHIFT
        new_state = move if moves else shifted
        change = move if moves else zero
        if backtracks:
            taken_back = -state
            change = taken_back if flipped else change
        return w - change, new_state

    return update


def update_weight(
    w: Any, g: Any, state: Any, eta_minus: Any, eta_plus: Any, step_min: Any, step_max: Any, rule: Any
) -> Any:
    """Apply one of the four rules to a weight, in compiled code; ``rule`` is a constant."""
    raise NotImplementedError


@overload(update_weight, prefer_literal=True)
def _compile_update(
    w: Any, g: Any, state: Any, eta_minus: Any, eta_plus: Any, step_min: Any, step_max: Any, rule: Any
) -> Any:
    return _weight_rule(np.float64 if state == types.float64 else np.float32, rule.literal_value)


def _rule_loop(dtype: int, rule: int) -> Callable[..., None]:
    """Make the loop of one of the four rules over n weights."""
    real, stored = _real(dtype), STORED[dtype](0)
    zero, LEAST_STEP = real(0), real(encoding_of(np.dtype(real)).min_step)

    def loop(param: Any, grad: Any, state: Any, unused: Any, n: Any, numbers: Any) -> None:
        w, s = carray(pointer(param, stored), (n,)), carray(pointer(state, zero), (n,))
        grads, hyper = carray(pointer(grad, stored), (n,)), carray(pointer(numbers, zero), (5,))
        eta_minus, eta_plus, step_min, step_max, direction = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
        step_min = LEAST_STEP if step_min < LEAST_STEP else step_min
        for i in range(n):
            g = mulsign(widen(grads[i], dtype), direction)
            updated, s[i] = update_weight(widen(w[i], dtype), g, s[i], eta_minus, eta_plus, step_min, step_max, rule)
            w[i] = narrow(updated, dtype)

    return loop


def _torch_loop(dtype: int) -> Callable[..., None]:
    """Make the loop of torch's rule over n weights."""
    real, stored = _real(dtype), STORED[dtype](0)
    zero, one, tiny = real(0), real(1), real(TINY[dtype])

    def loop(param: Any, grad: Any, prev: Any, step_size: Any, n: Any, numbers: Any) -> None:
        w, grads = carray(pointer(param, stored), (n,)), carray(pointer(grad, stored), (n,))
        prevs, steps = carray(pointer(prev, stored), (n,)), carray(pointer(step_size, stored), (n,))
        hyper = carray(pointer(numbers, zero), (5,))
        eta_minus, eta_plus, step_min, step_max, direction = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
        for i in range(n):
            g = mulsign(widen(grads[i], dtype), direction)
            product = g * widen(prevs[i], dtype)
            factor = eta_plus if product > tiny else (eta_minus if product < -tiny else one)
            step = widen(steps[i], dtype) * factor
            step = step_min if step < step_min else step
            step = step_max if step > step_max else step
            g = zero if factor == eta_minus else g  # torch compares the factor, not the sign
            unit = mulsign(one, g)
            sign = unit if abs(g) > zero else zero
            rounded = narrow(step, dtype)
            steps[i] = rounded
            prevs[i] = narrow(g, dtype)
            w[i] = narrow(widen(w[i], dtype) - sign * widen(rounded, dtype), dtype)

    return loop


def _forget_loop(dtype: int) -> Callable[..., None]:
    """Make the loop that copies n gradients, 0 for frozen weights, whose states lose their signs."""
    real, stored = _real(dtype), STORED[dtype](0)
    encoding = encoding_of(np.dtype(real))
    zero, SHIFT, THRESHOLD = real(0), real(encoding.shift), real(encoding.threshold)

    def loop(frozen: Any, grad: Any, state: Any, masked_grad: Any, n: Any, unused: Any) -> None:
        is_frozen, s = carray(pointer(frozen, byte), (n,)), carray(pointer(state, zero), (n,))
        grads, masked_grads = carray(pointer(grad, stored), (n,)), carray(pointer(masked_grad, stored), (n,))
        for i in range(n):
            last, g = s[i], grads[i]
            size = abs(last)
            shifted = size * SHIFT
            unsigned = size if size > THRESHOLD else shifted
            s[i] = last if is_frozen[i] == 0 else unsigned
            masked_grads[i] = g if is_frozen[i] == 0 else stored

    return loop


def _weight_stop(real: type) -> Callable[..., Any]:
    """Make the test of a weight's bounds: whether it is stopped, on the upper one, and the state without a sign."""
    encoding = encoding_of(np.dtype(real))
    two, SHIFT, THRESHOLD, LEAST_STEP = (real(x) for x in (2, encoding.shift, encoding.threshold, encoding.min_step))

    def stop(x: Any, lower: Any, upper: Any, state: Any) -> Any:
        is_high = x >= upper
        size = abs(state)
        shifted = size * SHIFT
        unsigned = size if size > THRESHOLD else shifted
        half = (upper - lower) / two
        largest = (LEAST_STEP if half < LEAST_STEP else half) * SHIFT
        limited = largest if unsigned > largest else unsigned
        return (x <= lower) | is_high, is_high, limited

    return stop


def stop_weight(x: Any, lower: Any, upper: Any, state: Any) -> Any:
    """Test the bounds of a weight, in compiled code."""
    raise NotImplementedError


@overload(stop_weight)
def _compile_stop(x: Any, lower: Any, upper: Any, state: Any) -> Any:
    return _weight_stop(np.float64 if state == types.float64 else np.float32)


def _stop_loop(dtype: int) -> Callable[..., None]:
    """Make the loop that sets n weights at or beyond a bound on it, without sign and with a limited step."""
    zero, stored = _real(dtype)(0), STORED[dtype](0)

    def loop(param: Any, lower: Any, state: Any, upper: Any, n: Any, frozen: Any) -> None:
        w, s = carray(pointer(param, stored), (n,)), carray(pointer(state, zero), (n,))
        lows, highs = carray(pointer(lower, stored), (n,)), carray(pointer(upper, stored), (n,))
        is_frozen = carray(pointer(frozen, byte), (n,))
        for i in range(n):
            weight, lowest, highest, last = w[i], lows[i], highs[i], s[i]
            x, low, high = widen(weight, dtype), widen(lowest, dtype), widen(highest, dtype)
            at_bound, is_high, limited = stop_weight(x, low, high, last)
            stopped = at_bound & (is_frozen[i] == 0)
            bound = highest if is_high else lowest
            s[i] = limited if stopped else last
            w[i] = bound if stopped else weight

    return loop


def _make_loop(dtype: int, loop: int) -> Callable[..., None]:
    special = {TORCH: _torch_loop, FORGET: _forget_loop, STOP: _stop_loop}
    return special[loop](dtype) if loop in special else _rule_loop(dtype, loop)


# ---------------------------------------------------------------------------------------- running the table

compiled = njit(nogil=True, error_model="numpy")
hyper_memory: Final = _stack(8 * table.HYPER_COLUMNS)


@compiled
def _loss_rule(header: Any, row: Any, loss: Any) -> Any:
    """Return the rule by the outcome of one of a row's losses, as RULE_FOR_OUTCOME of iRprop+."""
    outcomes = item(header, table.HEADER_OUTCOMES)
    if outcomes == 0:
        return item(row, table.RULE)
    outcome = load(outcomes + item(row, table.FIRST_LOSS) + loss, byte)
    return SKIP if outcome == 0 else (BACKTRACK if outcome == 1 else BACKTRACK_ALL)


@compiled
def _itemsizes(dtype: Any, rule: Any) -> Any:
    """Return the itemsizes of a parameter and of its state."""
    if dtype == table.DOUBLE:
        return 8, 8
    if dtype == table.FLOAT:
        return 4, 4
    return 2, 2 if rule == TORCH else 4


def _run_range(header: Any, begin: Any, end: Any) -> None:
    """Step the weights begin..end of a table."""
    rows, loops, hyper = item(header, table.HEADER_ROWS), item(header, table.HEADER_LOOPS), hyper_memory()
    index, high, last_dtype, last_hyper = 0, item(header, table.HEADER_N_ROWS), -1, -1
    while index < high:  # find the row that holds the weight ``begin``
        middle = (index + high) // 2
        row = rows + middle * ROW_SIZE
        if item(row, table.OFFSET) + item(row, table.NUMEL) <= begin:
            index = middle + 1
        else:
            high = middle
    while begin < end:
        row, grad = rows + index * ROW_SIZE, item(item(header, table.HEADER_GRADS), index)
        index += 1
        param, state, state2 = (
            item(row, table.PARAM_ADDRESS),
            item(row, table.STATE_ADDRESS),
            item(row, table.STATE2_ADDRESS),
        )
        dtype, rule, per_loss = item(row, table.DTYPE), item(row, table.RULE), item(row, table.NUMEL_PER_LOSS)
        start, stop = begin - item(row, table.OFFSET), min(end - item(row, table.OFFSET), item(row, table.NUMEL))
        begin = item(row, table.OFFSET) + stop
        if item(row, table.HYPER) != last_hyper or dtype != last_dtype:  # write them in the type of the loop
            last_hyper, last_dtype = item(row, table.HYPER), dtype
            for i in range(table.HYPER_COLUMNS):
                value = load(item(header, table.HEADER_HYPERS) + 8 * (table.HYPER_COLUMNS * last_hyper + i), 0.0)
                if dtype == table.DOUBLE:
                    store(hyper + 8 * i, value)
                else:
                    store(hyper + 4 * i, np.float32(value))
        if item(row, table.LAYOUT) >= 0 or item(row, table.EXTRA) >= 0:
            call_loop(item(header, table.HEADER_RUN_GATHERED), (header, row, grad, start, stop, hyper))
            continue
        itemsize, state_size = _itemsizes(dtype, rule)
        while start < stop:
            part = stop
            if per_loss > 0:  # neighbours with the same rule
                rule = _loss_rule(header, row, start // per_loss)
                part = (start // per_loss + 1) * per_loss
                while part < stop and _loss_rule(header, row, part // per_loss) == rule:
                    part += per_loss
                part = min(part, stop)
            elif stop - start >= MIN_ALIGNED_RUN:  # up to a cache line of the parameter
                lead = (-(param + start * itemsize) & (CACHE_LINE - 1)) // itemsize
                part = start + lead if lead > 0 else stop
            skipped, skipped_state = start * itemsize, start * state_size
            arrays = (param + skipped, grad + skipped, state + skipped_state, state2 + skipped_state)
            call_loop(item(loops, dtype * N_LOOPS + rule), (*arrays, part - start, hyper))
            start = part


def _run_thread(header: Any) -> None:
    """Step one thread's part of a table."""
    numel = item(header, table.HEADER_NUMEL)
    blocks = (numel + THREAD_BLOCK - 1) // THREAD_BLOCK
    thread = call_query(item(header, table.HEADER_THREAD_NUMBER))
    n_threads = call_query(item(header, table.HEADER_THREAD_COUNT))
    begin = blocks * thread // n_threads * THREAD_BLOCK
    end = min(blocks * (thread + 1) // n_threads * THREAD_BLOCK, numel)
    call_loop(item(header, table.HEADER_RUN_RANGE), (header, begin, end))


def _increment(addresses: Any, n: Any, dtype: Any) -> None:
    """Add 1 to n numbers of float32 or float64."""
    for i in range(n):
        address = item(addresses, i)
        if dtype == table.DOUBLE:
            store(address, load(address, 0.0) + 1.0)
        else:
            store(address, load(address, np.float32(0)) + np.float32(1))


# -------------------------------------------------------------------------- rows that are not dense or have options

BUFFER_SIZE: Final = GATHER_SIZE * 8
gather_memory: Final = _stack(table.N_ARRAYS * (BUFFER_SIZE + 32) + 8)
"""A buffer for each array; for each array the address of its first weight, its innermost stride, the address of the
current weights and that of the memory to use in their place; a number."""


@compiled
def _copy(to: Any, to_stride: Any, source: Any, source_stride: Any, n: Any, itemsize: Any) -> None:
    """Copy n numbers between strided arrays."""
    if itemsize == 8:
        for i in range(n):
            store(to + i * to_stride, load(source + i * source_stride, np.int64(0)))
    elif itemsize == 4:
        for i in range(n):
            store(to + i * to_stride, load(source + i * source_stride, np.int32(0)))
    elif itemsize == 2:
        for i in range(n):
            store(to + i * to_stride, load(source + i * source_stride, np.uint16(0)))
    else:
        for i in range(n):
            store(to + i * to_stride, load(source + i * source_stride, np.uint8(0)))


@compiled
def _copy_dense(to: Any, source: Any, n_bytes: Any) -> None:
    """Copy memory; LLVM makes it a call of memcpy."""
    target, origin = carray(pointer(to, byte), (n_bytes,)), carray(pointer(source, byte), (n_bytes,))
    for i in range(n_bytes):
        target[i] = origin[i]


@compiled
def _size_of(array: Any, param_size: Any, state_size: Any) -> Any:
    if array == table.FROZEN:
        return 1
    return state_size if array == table.STATE or array == table.STATE2 else param_size


@compiled
def _fill_buffers(buffers: Any, first: Any, used: Any, flags: Any, dtype: Any, itemsize: Any, absent: Any) -> None:
    """Fill the buffers of bounds that are one number or absent, and of an absent mask; they need no other address."""
    for i in (table.LOWER, table.UPPER):
        address = item(first, i)
        if address == 0:
            address = absent
            infinity = -np.inf if i == table.LOWER else np.inf
            if dtype == table.DOUBLE:
                store(address, infinity)
            elif dtype == table.FLOAT:
                store(address, np.float32(infinity))
            else:
                bits = (0x7C00 if dtype == table.HALF else 0x7F80) | (0x8000 if i == table.LOWER else 0)
                store(address, np.uint16(bits))
        elif flags & (table.SCALAR_LOWER if i == table.LOWER else table.SCALAR_UPPER) == 0:
            continue
        _copy(buffers + i * BUFFER_SIZE, itemsize, address, 0, GATHER_SIZE, itemsize)
        set_item(first, i, 0)
        set_item(used, i, buffers + i * BUFFER_SIZE)
    if item(first, table.FROZEN) == 0:
        for k in range(GATHER_SIZE):
            store(buffers + table.FROZEN * BUFFER_SIZE + k, byte)
        set_item(used, table.FROZEN, buffers + table.FROZEN * BUFFER_SIZE)


def _run_gathered(header: Any, row: Any, grad: Any, begin: Any, end: Any, hyper: Any) -> None:
    """Step weights of a row, a part of an innermost dimension at a time."""
    buffers = gather_memory()
    first = buffers + table.N_ARRAYS * BUFFER_SIZE
    strides, current, used = (first + 8 * table.N_ARRAYS, first + 16 * table.N_ARRAYS, first + 24 * table.N_ARRAYS)
    dtype, rule, per_loss = item(row, table.DTYPE), item(row, table.RULE), item(row, table.NUMEL_PER_LOSS)
    param_size, state_size = _itemsizes(dtype, rule)
    loops = item(header, table.HEADER_LOOPS) + 8 * N_LOOPS * dtype
    has_options, dense = item(row, table.EXTRA) >= 0, item(row, table.LAYOUT) < 0
    layout = item(header, table.HEADER_LAYOUTS) + 8 * table.LAYOUT_COLUMNS * item(row, table.LAYOUT)
    options = item(header, table.HEADER_EXTRAS) + 8 * table.EXTRA_COLUMNS * item(row, table.EXTRA)
    last = 0 if dense else item(layout, 0) - 1
    inner = item(row, table.NUMEL) if dense else item(layout, table.SHAPE + last)
    for i in range(table.N_ARRAYS):
        address = 0
        if i == table.GRAD:
            address = grad
        elif i < table.LOWER:
            address = item(row, max(i - 1, 0))  # PARAM_ADDRESS, STATE_ADDRESS, STATE2_ADDRESS
        elif has_options:
            address = item(options, i - table.LOWER)
        set_item(first, i, address)
        size = _size_of(i, param_size, state_size)
        set_item(strides, i, size if dense else item(layout, table.STRIDES + i * table.MAX_DIMS + last))
    is_bounded = item(first, table.LOWER) != 0 or item(first, table.UPPER) != 0
    is_masked = item(first, table.FROZEN) != 0
    best, best_stride = item(first, table.BEST), item(strides, table.BEST)
    improved = item(header, table.HEADER_IMPROVED)
    if improved == 0 or (per_loss == 0 and load(improved, byte) == 0):
        best = 0
        set_item(first, table.BEST, 0)
    if is_bounded:
        flags = item(options, table.FLAGS)
        _fill_buffers(buffers, first, used, flags, dtype, param_size, used + 8 * table.N_ARRAYS)
    while begin < end:
        outer, index = begin // inner, begin % inner
        n = min(inner - index, end - begin, GATHER_SIZE)
        if per_loss > 0:
            rule = _loss_rule(header, row, begin // per_loss)
            n = min(n, per_loss - begin % per_loss)
        for i in range(table.N_ARRAYS):
            address, stride = item(first, i), item(strides, i)
            if address == 0:
                continue
            address += index * stride
            rest = outer
            for d in range(last - 1, -1, -1):
                length = item(layout, table.SHAPE + d)
                address += rest % length * item(layout, table.STRIDES + i * table.MAX_DIMS + d)
                rest //= length
            set_item(current, i, address)
            size = _size_of(i, param_size, state_size)
            if stride != size and i != table.BEST:
                _copy(buffers + i * BUFFER_SIZE, size, address, stride, n, size)
                address = buffers + i * BUFFER_SIZE
            set_item(used, i, address)
        param, grads, state = item(used, table.PARAM), item(used, table.GRAD), item(used, table.STATE)
        frozen, state2 = item(used, table.FROZEN), item(used, table.STATE2)
        if best != 0 and (per_loss == 0 or load(improved + item(row, table.FIRST_LOSS) + begin // per_loss, byte) != 0):
            if best_stride == param_size:
                _copy_dense(item(current, table.BEST), param, n * param_size)
            else:
                _copy(item(current, table.BEST), best_stride, param, param_size, n, param_size)
        if is_masked:
            masked = buffers + table.STATE2 * BUFFER_SIZE  # not used by the rules that have options
            call_loop(item(loops, FORGET), (frozen, grads, state, masked, n, hyper))
            grads = masked
        call_loop(item(loops, rule), (param, grads, state, state2, n, hyper))
        if is_bounded:
            call_loop(item(loops, STOP), (param, item(used, table.LOWER), state, item(used, table.UPPER), n, frozen))
        for i in (table.PARAM, table.STATE, table.STATE2):
            if item(first, i) != 0 and item(used, i) != item(current, i):
                size = _size_of(i, param_size, state_size)
                _copy(item(current, i), item(strides, i), item(used, i), size, n, size)
        begin += n


# ------------------------------------------------------------------------------------------------ compiling

_constants = [
    (k, v) for module in (vars(table), globals()) for k, v in module.items() if type(v) is int and k.isupper()
]
_REVISION: Final = f"{zlib.crc32(repr(sorted(_constants)).encode()):08x}"
"""Part of the names of compiled functions: Numba's files on disk are not renewed where only a constant has changed."""


def _compile(function: Callable[..., None], name: str, n_arguments: int) -> Any:
    """Compile a C function of int64 numbers, or load it from disk.

    ``name`` is unique: processes that compile at the same time could confuse functions in the same file.
    """
    function.__qualname__ = f"{name}-{_REVISION}"
    signature = types.void(*[types.int64] * n_arguments)
    try:
        return cfunc(signature, cache=True, nogil=True, error_model="numpy")(function)
    except Exception:  # no folder can be written, the disk is full, a file is damaged
        return cfunc(signature, nogil=True, error_model="numpy")(function)


_functions: Final[dict[str, Any]] = {}
"""The compiled functions by name."""
_loops: Final = np.zeros((table.N_DTYPES, N_LOOPS), np.int64)
"""The address of each loop, 0 where it is not compiled yet."""


def _get(name: str, make: Callable[[], Callable[..., None]], n_arguments: int) -> Any:
    """Return a function, compiled at the first call."""
    if name not in _functions:
        _functions.setdefault(name, _compile(make(), name, n_arguments))  # threads agree on one: it is never freed
    return _functions[name]


@functools.cache
def prepare(needs: int) -> tuple[int, int, int]:
    """Compile the functions that a table needs.

    Args:
        needs: bits of the loops, see ``NEEDS_OPTIONS`` and its neighbours.

    Returns:
        The addresses of run_range, of the table of loops and of run_gathered (0 where it was never needed).
    """
    for dtype in range(table.N_DTYPES):
        bits = needs >> table.N_NEEDS * dtype
        loops = [rule for rule in range(TORCH + 1) if bits & 1 << rule]
        loops += [FORGET, STOP] if bits & 1 << table.NEEDS_OPTIONS else []
        for loop in loops:
            if not _loops[dtype, loop]:
                make = functools.partial(_make_loop, dtype, loop)
                _loops[dtype, loop] = _get(f"loop_{dtype}_{loop}", make, 6).address
        if bits & 1 << table.NEEDS_GATHERED:
            _get("run_gathered", lambda: _run_gathered, 6)
    run_gathered = _functions.get("run_gathered")
    run_range = _get("run_range", lambda: _run_range, 3)
    return run_range.address, table.address_of(_loops), run_gathered.address if run_gathered else 0


def run_table(step: table.StepTable, n_threads: int | Callable[[], int] = 1) -> None:
    """Step all rows of a table.

    Args:
        step: a filled table.
        n_threads: for large tables; 0 for the setting of OMP_NUM_THREADS and threadpoolctl.
    """
    if not step.numel:
        return
    run_range, loops, run_gathered = prepare(step.needs)
    header = step.header
    header[table.HEADER_LOOPS : table.HEADER_NUMEL] = loops, run_gathered, run_range
    team = threads.thread_team(n_threads) if n_threads != 1 and step.numel >= threads.MIN_SHARED_WEIGHTS else None
    if team is None:
        _functions["run_range"].ctypes(step.header_address, 0, step.numel)
        return
    header[table.HEADER_THREAD_NUMBER], header[table.HEADER_THREAD_COUNT] = team.thread_number, team.thread_count
    parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(team.parallel)
    parallel(_get("run_thread", lambda: _run_thread, 1).address, step.header_address, team.threads, 0)


def increment(dtype: int, addresses: list[int]) -> None:
    """Add 1 to numbers of float32 or float64 at addresses."""
    column = np.array(addresses, np.int64)
    function = _get("increment", lambda: _increment, 3)
    function.ctypes(table.address_of(column), len(addresses), dtype)


# ------------------------------------------------------------------------------------------------ NumPy arrays


_DTYPES: Final = {np.dtype(np.float32): table.FLOAT, np.dtype(np.float64): table.DOUBLE, np.dtype(bool): table.BOOL}


def _describe(array: Any, is_written: bool = False) -> table.Memory:
    """Describe an array for the table.

    Raises:
        TypeError, KeyError: not an array, read-only, or of another dtype or byte order.
    """
    if type(array) is not np.ndarray and type(array) is not np.memmap:
        raise TypeError
    address, read_only = array.__array_interface__["data"]
    if is_written and read_only:
        raise TypeError
    return address, array.shape, array.strides, _DTYPES[array.dtype]


class ArrayStepper:
    """Steps of one optimizer on NumPy arrays, collected in Python. It keeps its table."""

    def __init__(self) -> None:
        self._table = table.StepTable()
        self._busy = False

    def __call__(
        self,
        variant: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[tuple[Any, ...]],
        hyper: Hyperparameters,
        *,
        maximize: bool = False,
        outcome: LossOutcome = NOT_WORSE,
        n_threads: int = 1,
        constraints: Sequence[Any] | None = None,
        bests: Sequence[Any] | None = None,
        improved: bytes | None = None,
    ) -> bool:
        """Perform one step in one call, as :func:`rprop_kernels.kernels.numpy_.step`, but validated.

        The bounds of ``constraints`` are arrays of shape () or of the parameter's; ``frozen`` has the parameter's.

        Returns:
            False, with nothing touched, where an array is read-only, overlaps another, or is not of the expected type,
            shape and byte order.
        """
        if self._busy or not len(params) == len(grads) == len(states):  # busy: in use by another thread
            return False
        rules = RULE_FOR_OUTCOME[variant]
        rule, outcomes = (rules[outcome], None) if isinstance(outcome, int) else (rules[NOT_WORSE], outcome)
        self._busy = True
        try:
            described: list[table.Described] = []
            addresses: list[int] = []
            none = [None] * len(params)
            columns = params, grads, states, constraints or none, bests or none
            for param, grad, state, limits, best in zip(*columns, strict=True):
                address, shape, strides, dtype = _describe(grad)
                addresses.append(address)
                move, *moves = [_describe(x, is_written=True) for x in state]
                memory: list[table.Memory | None] = [
                    _describe(param, is_written=True),
                    (0, shape, strides, dtype),
                    move,
                ]
                memory += moves or [None]
                memory += [None if x is None else _describe(x) for x in limits or (None,) * 3]
                memory.append(None if best is None else _describe(best, is_written=True))
                described.append((0, tuple(memory)))
            hypers = [hyper.with_direction(maximize)]
            if not self._table.collect(rule, described, addresses, hypers, outcomes, improved):
                return False
            run_table(self._table, n_threads)
        except (TypeError, KeyError, ValueError):
            return False
        finally:
            self._busy = False
        return True


def make_stepper() -> Any:
    """Make the steps of one optimizer on NumPy arrays; the extension collects the table, where there is one."""
    try:
        from . import cython_
    except ImportError:
        return ArrayStepper()
    return cython_.ArrayStepper(prepare)


def step(*arguments: Any, **options: Any) -> bool:
    """Perform one step without a cache: see :class:`ArrayStepper`."""
    stepped: bool = make_stepper()(*arguments, **options)
    return stepped
