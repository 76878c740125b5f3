"""Arithmetic of floats as a card does it, where numpy's differs or has none.

Exact here means: the same bits as IEEE 754 with one rounding, which is what PTX promises for .rn operations. Kernels
mean one approximation, ex2.approx.ftz, for which `rounding` has models. Any other approximate instruction is an error.
"""

import numpy as np

NAN_BF16 = np.uint16(0x7FFF)
SPLITTER = np.float64(134217729.0)  # 2^27 + 1, of Dekker's product


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormal values of f32 become zeros of the same sign (.ftz)."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def _round_to_odd(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The sum `total + error`, where `error` is what rounding lost, rounded so that a second rounding does no harm.

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums" (2008).
    """
    bits = total.view(np.int64)
    nudge = (error != 0) & ((bits & 1) == 0) & np.isfinite(total) & np.isfinite(error)
    away = np.where((error > 0) == (total > 0), np.int64(1), np.int64(-1))
    return np.where(nudge, bits + away, bits).view(np.float64)


def _two_sum(a: np.ndarray, b: np.ndarray):
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of f32 with one rounding."""
    product = np.multiply(a, b, dtype=np.float64)  # exact: 48 bits
    total, error = _two_sum(product, np.asarray(c, np.float64))
    return _round_to_odd(total, error).astype(np.float32)


def _split(a: np.ndarray):
    scaled = a * SPLITTER
    high = scaled - (scaled - a)
    return high, a - high


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of f64 with one rounding, unless a partial product is subnormal or overflows."""
    a, b, c = np.broadcast_arrays(np.float64(a), np.float64(b), np.float64(c))
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    product_error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    low, low_error = _two_sum(c, product_error)
    high, high_error = _two_sum(product, low)
    rest, rest_error = _two_sum(high_error, low_error)
    result = high + _round_to_odd(rest, rest_error)
    plain = product + c
    usable = np.isfinite(result) & np.isfinite(product_error)
    return np.where(usable, result, plain)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds f32 to bf16, half to even; every NaN becomes 0x7fff, as cvt.rn.bf16 does."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where((bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000), NAN_BF16, rounded.astype(np.uint16))


def fma_bf16(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of bf16 with one rounding."""
    product = from_bf16(a).astype(np.float64) * from_bf16(b)  # exact: 16 bits
    exact = _round_to_odd(*_two_sum(product, from_bf16(c).astype(np.float64)))
    nearest = exact.astype(np.float32)
    cut = np.where(np.abs(nearest) > np.abs(exact), np.nextafter(nearest, np.float32(0)), nearest)
    # What was cut off leaves a trace in the last bit, so that rounding again goes the right way.
    inexact = (cut != exact) & np.isfinite(exact)
    return to_bf16((cut.view(np.uint32) | inexact.astype(np.uint32)).view(np.float32))


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max of PTX: a NaN loses against a number, and +0 is above -0."""
    result = np.fmax(a, b)
    return np.where((a == 0) & (b == 0), a + b, result)


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = np.fmin(a, b)
    return np.where((a == 0) & (b == 0), -((-a) + (-b)), result)


def exp2_approximate(x: np.ndarray, flushes: bool) -> np.ndarray:
    if flushes:
        x = flush(x)
    result = np.exp2(np.asarray(x, np.float64)).astype(np.float32)
    return flush(result) if flushes else result
