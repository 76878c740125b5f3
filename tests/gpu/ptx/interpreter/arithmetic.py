"""Instructions that compute: integers, floats, comparisons, conversions. Each decoder gives a function to run."""

import numpy as np

from . import floats
from .context import PREDICATE, U32
from .fault import Fault
from .parse import WithPredicate
from .registers import Type, type_of

DECODERS = {}


def decodes(*names):
    def register(decoder):
        for name in names:
            DECODERS[name] = decoder
        return decoder

    return register


def types_of(instruction) -> list:
    return [kind for kind in map(type_of, instruction.modifiers) if kind]


def only(instruction, *known) -> None:
    """Refuses modifiers that change the meaning in a way that the decoder does not know."""
    unknown = [m for m in instruction.modifiers if m not in known and not type_of(m)]
    if unknown:
        raise Fault(f"{instruction.where()}: .{unknown[0]} is unknown to the interpreter")


def operation(context, instruction, kinds, result_kind, function):
    """An instruction with one result, all of whose operands have the types `kinds`."""
    readers = [context.reader(o, k) for o, k in zip(instruction.operands[1:], kinds, strict=True)]
    put = context.writer(instruction.operands[0], result_kind)
    if len(readers) == 1:
        (a,) = readers
        return lambda active: put(active, function(a(active)))
    if len(readers) == 2:
        a, b = readers
        return lambda active: put(active, function(a(active), b(active)))
    if len(readers) == 3:
        a, b, c = readers
        return lambda active: put(active, function(a(active), b(active), c(active)))
    return lambda active: put(active, function(*(reader(active) for reader in readers)))


ROUNDINGS = ("rn", "ftz", "sat")


def with_float_modifiers(instruction, kind, function):
    """Wraps a function of floats in what .ftz and .sat ask for."""
    if kind.is_float and "ftz" in instruction.modifiers and kind.width == 32:
        inner = function
        function = lambda *values: floats.flush(inner(*map(floats.flush, values)))  # noqa: E731
    if "sat" in instruction.modifiers and kind.is_float:
        plain = function
        function = lambda *values: np.fmin(np.fmax(plain(*values), kind.dtype.type(0)), kind.dtype.type(1))  # noqa: E731
    return function


SIMPLE = {"add": np.add, "sub": np.subtract}


@decodes("add", "sub")
def decode_add(context, instruction):
    only(instruction, *ROUNDINGS)
    (kind,) = types_of(instruction)
    function = with_float_modifiers(instruction, kind, SIMPLE[instruction.name])
    return operation(context, instruction, [kind, kind], kind, function)


def wide(kind: Type) -> Type:
    return Type(kind.kind, 2 * kind.width)


def multiply_high(kind: Type):
    if kind.width == 32:
        big = wide(kind).dtype
        return lambda a, b: ((np.asarray(a, big) * np.asarray(b, big)) >> big.type(32)).astype(kind.dtype)

    def of_objects(a, b):
        products = (np.asarray(a).astype(object) * np.asarray(b).astype(object)) >> kind.width
        return products.astype(kind.dtype)

    return of_objects


def product(instruction, kind: Type):
    """The function and the result type of mul; for mad it comes before the sum."""
    if kind.is_float or "lo" in instruction.modifiers:
        return np.multiply, kind
    if "wide" in instruction.modifiers:
        result = wide(kind)
        return lambda a, b: np.asarray(a, result.dtype) * np.asarray(b, result.dtype), result
    if "hi" in instruction.modifiers:
        return multiply_high(kind), kind
    raise Fault(f"{instruction.where()}: neither .lo, .hi nor .wide")


@decodes("mul", "mul24")
def decode_mul(context, instruction):
    only(instruction, *ROUNDINGS, "lo", "hi", "wide")
    (kind,) = types_of(instruction)
    function, result = product(instruction, kind)
    return operation(context, instruction, [kind, kind], result, with_float_modifiers(instruction, kind, function))


@decodes("mad")
def decode_mad(context, instruction):
    only(instruction, "lo", "hi", "wide")
    (kind,) = types_of(instruction)
    function, result = product(instruction, kind)
    return operation(context, instruction, [kind, kind, result], result, lambda a, b, c: function(a, b) + c)


@decodes("fma")
def decode_fma(context, instruction):
    if instruction.modifiers == ("rn", "bf16x2"):
        return decode_fma_of_pairs(context, instruction)
    only(instruction, *ROUNDINGS)
    (kind,) = types_of(instruction)
    function = floats.fma32 if kind.width == 32 else floats.fma64
    return operation(context, instruction, [kind] * 3, kind, with_float_modifiers(instruction, kind, function))


def decode_fma_of_pairs(context, instruction):
    """fma.rn.bf16x2: lower and upper halves, each by itself."""
    pair = Type("b", 32)

    def function(*operands):
        halves = [[np.asarray(o) & np.uint32(0xFFFF), np.asarray(o) >> np.uint32(16)] for o in operands]
        low, high = (floats.fma_bf16(*parts).astype(np.uint32) for parts in zip(*halves, strict=True))
        return low | (high << np.uint32(16))

    return operation(context, instruction, [pair] * 3, pair, function)


def truncated_quotient(a, b):
    quotient = np.floor_divide(a, b)
    inexact = quotient * b != a
    return np.where(inexact & ((a < 0) != (b < 0)), quotient + quotient.dtype.type(1), quotient)


@decodes("div", "rem")
def decode_div(context, instruction):
    only(instruction, "rn", "ftz")
    (kind,) = types_of(instruction)
    if kind.is_float:
        function = with_float_modifiers(instruction, kind, np.divide)
        return operation(context, instruction, [kind, kind], kind, function)
    a, b = (context.reader(operand, kind) for operand in instruction.operands[1:])
    put = context.writer(instruction.operands[0], kind)
    quotient = np.floor_divide if kind.kind == "u" else truncated_quotient

    def run(active):
        numerator, divisor = a(active), np.asarray(b(active))
        zero = divisor == 0
        if (zero & active.mask).any():
            raise Fault("an integer is divided by zero")
        divisor = np.where(zero, divisor.dtype.type(1), divisor)
        result = quotient(numerator, divisor)
        put(active, numerator - result * divisor if instruction.name == "rem" else result)

    return run


def integer_abs(a):
    return np.where(a < 0, np.negative(a), a)


@decodes("abs", "neg")
def decode_sign(context, instruction):
    only(instruction, "ftz")
    (kind,) = types_of(instruction)
    function = np.negative if instruction.name == "neg" else np.abs if kind.is_float else integer_abs
    return operation(context, instruction, [kind], kind, with_float_modifiers(instruction, kind, function))


@decodes("max", "min")
def decode_extreme(context, instruction):
    only(instruction, "ftz")
    (kind,) = types_of(instruction)
    larger = instruction.name == "max"
    if kind.is_float:
        function = floats.larger if larger else floats.smaller
    else:
        function = np.maximum if larger else np.minimum
    function = with_float_modifiers(instruction, kind, function)
    return operation(context, instruction, [kind, kind], kind, function)


BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}


@decodes("and", "or", "xor", "not")
def decode_bitwise(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    kinds = [kind] * (len(instruction.operands) - 1)
    return operation(context, instruction, kinds, kind, BITWISE[instruction.name])


def shift(instruction, kind: Type):
    """shl and shr: shifts by the width or more give zeros, or copies of the sign."""
    left = instruction.name == "shl"
    shifted = np.left_shift if left else np.right_shift

    def function(a, amount):
        amount = np.asarray(amount)
        inside = shifted(a, np.minimum(amount, np.uint32(kind.width - 1)).astype(kind.dtype))
        beyond = np.right_shift(a, kind.dtype.type(kind.width - 1)) if kind.kind == "s" else kind.dtype.type(0)
        return np.where(amount >= kind.width, beyond, inside)

    return function


@decodes("shl", "shr")
def decode_shift(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    return operation(context, instruction, [kind, U32], kind, shift(instruction, kind))


@decodes("shf")
def decode_funnel(context, instruction):
    only(instruction, "l", "r", "wrap", "clamp")
    (kind,) = types_of(instruction)
    limit = (lambda c: c & np.uint32(31)) if "wrap" in instruction.modifiers else lambda c: np.minimum(c, np.uint32(32))

    def function(low, high, amount):
        both = np.asarray(low).astype(np.uint64) | (np.asarray(high).astype(np.uint64) << np.uint64(32))
        amount = limit(amount).astype(np.uint64)
        if "r" in instruction.modifiers:
            return (both >> amount).astype(np.uint32)
        return ((both << amount) >> np.uint64(32)).astype(np.uint32)

    return operation(context, instruction, [kind, kind, U32], kind, function)


@decodes("lop3")
def decode_logic(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    table = instruction.operands[4].bits

    def function(a, b, c, _table):
        result = np.zeros(context.count, kind.dtype)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return operation(context, instruction, [kind] * 4, kind, function)


def low_bits(length, width):
    """A mask of the lowest `length` bits, for a length of up to the width."""
    full = np.uint64(2**width - 1)
    length = np.minimum(np.asarray(length).astype(np.uint64), np.uint64(width))
    return np.where(length == 64, full, (np.uint64(1) << (length & np.uint64(63))) - np.uint64(1)) & full


@decodes("bfi")
def decode_bit_insert(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)

    def function(field, base, position, length):
        position = (position & np.uint32(0xFF)).astype(np.uint64)
        mask = low_bits(length & np.uint32(0xFF), kind.width) << np.minimum(position, np.uint64(63))
        mask &= np.uint64(2**kind.width - 1)
        moved = np.asarray(field).astype(np.uint64) << np.minimum(position, np.uint64(63))
        return ((np.asarray(base).astype(np.uint64) & ~mask) | (moved & mask)).astype(kind.dtype)

    return operation(context, instruction, [kind, kind, U32, U32], kind, function)


@decodes("bfe")
def decode_bit_extract(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    if kind.kind != "u":
        raise Fault(f"{instruction.where()}: bfe of signed integers is unknown to the interpreter")

    def function(a, position, length):
        position = np.minimum(position & np.uint32(0xFF), np.uint32(63)).astype(np.uint64)
        moved = np.asarray(a).astype(np.uint64) >> position
        return (moved & low_bits(length & np.uint32(0xFF), kind.width)).astype(kind.dtype)

    return operation(context, instruction, [kind, U32, U32], kind, function)


@decodes("prmt")
def decode_permute(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)

    def function(a, b, selector):
        both = np.asarray(a).astype(np.uint64) | (np.asarray(b).astype(np.uint64) << np.uint64(32))
        result = np.zeros(context.count, np.uint64)
        for place in range(4):
            choice = (np.asarray(selector).astype(np.uint64) >> np.uint64(4 * place)) & np.uint64(15)
            byte = (both >> ((choice & np.uint64(7)) * np.uint64(8))) & np.uint64(0xFF)
            sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
            result |= np.where(choice & np.uint64(8), sign, byte) << np.uint64(8 * place)
        return result.astype(np.uint32)

    return operation(context, instruction, [kind] * 3, kind, function)


def count_bits(a):
    return np.bitwise_count(a).astype(np.uint32)


def leading_zeros(a):
    width = a.dtype.itemsize * 8
    for step in (1, 2, 4, 8, 16, 32)[: width.bit_length() - 1]:
        a = a | (a >> a.dtype.type(step))
    return np.uint32(width) - count_bits(a)


def reversed_bits(a):
    width = a.dtype.itemsize * 8
    return sum((((a >> a.dtype.type(i)) & a.dtype.type(1)) << a.dtype.type(width - 1 - i)) for i in range(width))


@decodes("popc", "clz", "brev")
def decode_bits(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    function = {"popc": count_bits, "clz": leading_zeros, "brev": reversed_bits}[instruction.name]
    result = kind if instruction.name == "brev" else U32
    return operation(context, instruction, [Type("u", kind.width)], result, function)


def reciprocal_of_double(a):
    """rcp.approx.ftz.f64 gives the upper half of the result and zeros below."""
    bits = np.asarray(np.divide(np.float64(1), a)).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)
    return bits.view(np.float64)


@decodes("rcp", "sqrt")
def decode_root(context, instruction):
    """Exact ones, and the one approximation that NVIDIA's own logarithm of doubles begins with."""
    (kind,) = types_of(instruction)
    name = ".".join((instruction.name, *instruction.modifiers))
    if name == "rcp.approx.ftz.f64":
        return operation(context, instruction, [kind], kind, reciprocal_of_double)
    only(instruction, "rn", "ftz")
    function = np.sqrt if instruction.name == "sqrt" else lambda a: np.divide(kind.dtype.type(1), a)
    return operation(context, instruction, [kind], kind, with_float_modifiers(instruction, kind, function))


@decodes("ex2")
def decode_exp2(context, instruction):
    only(instruction, "approx", "ftz")
    (kind,) = types_of(instruction)
    flushes = "ftz" in instruction.modifiers
    return operation(context, instruction, [kind], kind, lambda a: context.rounding.exp2(a, flushes))


@decodes("copysign")
def decode_copysign(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    return operation(context, instruction, [kind, kind], kind, lambda sign, size: np.copysign(size, sign))


COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "equ": np.equal, "neu": np.not_equal, "ltu": np.less, "leu": np.less_equal, "gtu": np.greater,
    "geu": np.greater_equal,
}  # fmt: skip
COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, kind: Type):
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    function = COMPARISONS[name]
    if not kind.is_float:
        return function
    if name.endswith("u"):  # also true when one of both is no number
        return lambda a, b: function(a, b) | np.isnan(a) | np.isnan(b)
    return lambda a, b: function(a, b) & ~(np.isnan(a) | np.isnan(b))


@decodes("setp")
def decode_compare(context, instruction):
    only(instruction, "ftz", "nan", "num", *COMPARISONS, *COMBINED)
    (kind,) = types_of(instruction)
    compared = comparison(instruction.modifiers[0], kind)
    if "ftz" in instruction.modifiers:
        plain = compared
        compared = lambda a, b: plain(floats.flush(a), floats.flush(b))  # noqa: E731
    a, b = (context.reader(operand, kind) for operand in instruction.operands[1:3])
    result, opposite = instruction.operands[0], None
    if isinstance(result, WithPredicate):
        opposite = context.writer(result.predicate, PREDICATE)
        result = result.value
    put = context.writer(result, PREDICATE)
    combine = next((COMBINED[m] for m in instruction.modifiers if m in COMBINED), None)
    third = context.reader(instruction.operands[3], PREDICATE) if combine else None

    def run(active):
        value = compared(a(active), b(active))
        other = ~value
        if combine:
            value, other = combine(value, third(active)), combine(other, third(active))
        put(active, value)
        if opposite:
            opposite(active, other)

    return run


@decodes("selp")
def decode_select(context, instruction):
    only(instruction)
    (kind,) = types_of(instruction)
    return operation(context, instruction, [kind, kind, PREDICATE], kind, lambda a, b, p: np.where(p, a, b))


INTEGER_ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def float_to_integer(kind: Type, rounding):
    limits = np.iinfo(kind.dtype)

    def function(a):
        rounded = rounding(np.asarray(a, np.float64))
        inside = (rounded >= float(limits.min)) & (rounded < 2.0 ** (kind.width - (kind.kind == "s")))
        plain = np.where(inside, rounded, 0).astype(kind.dtype)
        clamped = np.where(rounded > 0, limits.max, limits.min).astype(kind.dtype)
        return np.where(np.isnan(rounded), kind.dtype.type(0), np.where(inside, plain, clamped))

    return function


def to_float(kind: Type):
    if kind.kind == "bf":
        return floats.to_bf16
    return lambda a: np.asarray(a).astype(kind.dtype)


@decodes("cvt")
def decode_convert(context, instruction):
    if "bf16x2" in instruction.modifiers:
        return decode_pack(context, instruction)
    only(instruction, "rn", "ftz", "sat", *INTEGER_ROUNDINGS)
    result, source = types_of(instruction)
    rounding = next((INTEGER_ROUNDINGS[m] for m in instruction.modifiers if m in INTEGER_ROUNDINGS), None)
    if source.kind == "bf":
        function = floats.from_bf16 if result == Type("f", 32) else None
    elif source.is_float and not result.is_float:
        function = float_to_integer(result, rounding) if rounding else None
    elif source.is_float and rounding:
        function = rounding
    elif result.is_float:
        function = to_float(result)
    else:
        function = lambda a: np.asarray(a).astype(result.dtype)  # noqa: E731
    if function is None or "sat" in instruction.modifiers and not result.is_float:
        raise Fault(f"{instruction.where()}: a conversion that the interpreter does not know")
    if "ftz" in instruction.modifiers and source == Type("f", 32):
        plain = function
        function = lambda a: plain(floats.flush(a))  # noqa: E731
    if "sat" in instruction.modifiers:
        function = with_float_modifiers(instruction, result, function)
    return operation(context, instruction, [source], result, function)


def decode_pack(context, instruction):
    """cvt.rn.bf16x2.f32 d, a, b: the first source goes to the upper half."""
    only(instruction, "rn", "bf16x2")
    kind = Type("f", 32)

    def function(upper, lower):
        low, high = floats.to_bf16(lower).astype(np.uint32), floats.to_bf16(upper).astype(np.uint32)
        return low | (high << np.uint32(16))

    return operation(context, instruction, [kind, kind], Type("b", 32), function)
