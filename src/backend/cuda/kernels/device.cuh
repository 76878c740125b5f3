// What all kernels share, and the only file that knows two worlds: NVRTC or nvcc, where the functions below are
// instructions of the card, and a host's C++ compiler, where "emulator.hpp" does what the instructions do.
//
// Sums must not depend on the compiler's choice of fused operations, so kernels say which they mean: `add`, `mul`,
// `fused`. NVRTC gets --fmad=false, and the host's compiler -ffp-contract=off.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// 8 and 16 bytes that are read and written at once.
struct alignas(8) TwoWords {
    u32 at[2];
};
struct alignas(16) FourWords {
    u32 at[4];
};

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define PRAGMA(text) _Pragma(#text)
#define UNROLL PRAGMA(unroll)
// Unrolls a loop by a number of rounds, which is a constant.
#define UNROLL_BY(rounds) PRAGMA(unroll rounds)
// The shared memory whose size the launch gives.
#define SHARED_BYTES(name) extern __shared__ __align__(128) u8 name[]
// Shared memory of a fixed size, as a `SharedArray`.
#define SHARED_ARRAY(type, count, name)   \
    __shared__ type name##_memory[count]; \
    SharedArray<type> name = {name##_memory}

// An array in shared memory. Its functions are there so that the emulator sees each access.
template <class T>
struct SharedArray {
    T* elements;
    DEVICE_MEMBER T get(u32 index) const { return elements[index]; }
    DEVICE_MEMBER void set(u32 index, T value) const { elements[index] = value; }
    // Adds as one indivisible step, and returns what was there before.
    DEVICE_MEMBER T add_atomic(u32 index, T value) const { return atomicAdd(&elements[index], value); }
};

DEVICE TwoWords load_8(const void* from) {
    uint2 words = *static_cast<const uint2*>(from);
    return {{words.x, words.y}};
}
DEVICE FourWords load_16(const void* from) {
    uint4 words = *static_cast<const uint4*>(from);
    return {{words.x, words.y, words.z, words.w}};
}
DEVICE void store_4(void* to, u32 word) {
    *static_cast<u32*>(to) = word;
}
DEVICE void store_8(void* to, TwoWords words) {
    *static_cast<uint2*>(to) = make_uint2(words.at[0], words.at[1]);
}
DEVICE void store_16(void* to, FourWords words) {
    *static_cast<uint4*>(to) = make_uint4(words.at[0], words.at[1], words.at[2], words.at[3]);
}
DEVICE void store_16_shared(void* to, FourWords words) {
    store_16(to, words);
}

DEVICE float add(float a, float b) {
    return __fadd_rn(a, b);
}
DEVICE float mul(float a, float b) {
    return __fmul_rn(a, b);
}
// a * b + c, rounded once.
DEVICE float fused(float a, float b, float c) {
    return __fmaf_rn(a, b, c);
}
DEVICE float divide(float a, float b) {
    return __fdiv_rn(a, b);
}
DEVICE float square_root(float x) {
    return __fsqrt_rn(x);
}
// The larger one; the other one where one is NaN.
DEVICE float larger(float a, float b) {
    return fmaxf(a, b);
}
DEVICE double add(double a, double b) {
    return __dadd_rn(a, b);
}
DEVICE double mul(double a, double b) {
    return __dmul_rn(a, b);
}
DEVICE double fused(double a, double b, double c) {
    return __fma_rn(a, b, c);
}
DEVICE double natural_logarithm(double x) {
    return log(x);
}
// 2^x with a relative error below 2^-22, and 0 where that is not a normal number.
DEVICE float exp2_fast(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}
DEVICE float float_from_bits(u32 bits) {
    return __uint_as_float(bits);
}
DEVICE u32 bits_of_float(float x) {
    return __float_as_uint(x);
}
DEVICE double double_from_bits(u64 bits) {
    return __longlong_as_double(static_cast<long long>(bits));
}
DEVICE u64 bits_of_double(double x) {
    return static_cast<u64>(__double_as_longlong(x));
}
// Two values rounded to bf16 (to nearest, ties to even), the first in the low half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Adds two pairs of bf16, each sum rounded once.
DEVICE u32 add_bf16(u32 a, u32 b) {
    const u32 ones = 0x3f803f80u;
    u32 sums;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sums) : "r"(a), "r"(ones), "r"(b));
    return sums;
}
DEVICE float float_from_f16(u32 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<u16>(bits)));
    return x;
}

// Each lane gets the value of the lane whose number differs from its own in the bits of `mask`.
DEVICE float shuffle_xor(float value, u32 mask) {
    return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}
DEVICE u32 shuffle_xor(u32 value, u32 mask) {
    return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}
DEVICE double shuffle_xor(double value, u32 mask) {
    return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}
DEVICE void sync_block() {
    __syncthreads();
}

DEVICE u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}
// d += a . b for a 16 by 16 matrix a and a 16 by 8 matrix b in bf16; PTX ISA, mma.m16n8k16, says which lane has what.
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Loads four 8 by 8 matrices of 16-bit elements; lane 8 m + i names the 16 bytes of row i of matrix m.
DEVICE void load_matrices(u32 (&matrices)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrices_transposed(u32 (&matrices)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// Begins to copy 16 bytes to shared memory. Where they are not `real`, nothing is read and zeros are written.
DEVICE void copy_16_async(void* to, const void* from, bool real) {
    u32 bytes = real ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}
// Makes one group of the copies that this thread has begun since the last group.
DEVICE void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until all but the latest `LEFT` groups of this thread's copies are there.
template <int LEFT>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#else
#include "emulator.hpp"
#endif

// From here on both worlds have the same code.

constexpr u32 WARP = 32;

DEVICE float negative_infinity() {
    return float_from_bits(0xff800000u);
}
DEVICE float positive_infinity() {
    return float_from_bits(0x7f800000u);
}
DEVICE float float_from_bf16(u32 bits) {
    return float_from_bits(bits << 16);
}

// The sum over the lanes of a warp, in an order that depends on nothing; every lane gets it.
template <class T>
DEVICE T warp_sum(T value) {
    UNROLL
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) {
        value = add(value, shuffle_xor(value, mask));
    }
    return value;
}

// The sum over the threads of a block of `THREADS`: first in each warp, then over warps in ascending order.
template <u32 THREADS, class T>
DEVICE T block_sum(T value) {
    SHARED_ARRAY(T, THREADS / WARP, warps);
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) {
        warps.set(threadIdx.x / WARP, value);
    }
    sync_block();
    T sum = warps.get(0);
    UNROLL
    for (u32 warp = 1; warp < THREADS / WARP; warp++) {
        sum = add(sum, warps.get(warp));
    }
    // The next sum may write only when all have read this one.
    sync_block();
    return sum;
}

// Four neighbouring elements of a row.
struct Four {
    float at[4];
};

DEVICE bool is_aligned(const void* pointer, u32 bytes) {
    return (reinterpret_cast<u64>(pointer) & (bytes - 1)) == 0;
}

// Elements `first` to `first + 3` of a row, which are zeros from its end on. Rows of any width and alignment are read
// in the same fours, so that sums over them have one order.
DEVICE Four load_four(const float* row, u32 first, u32 width) {
    Four four = {{0, 0, 0, 0}};
    if (first + 4 <= width && is_aligned(row, 16)) {
        FourWords words = load_16(row + first);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            four.at[i] = float_from_bits(words.at[i]);
        }
    } else {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            if (first + i < width) {
                four.at[i] = row[first + i];
            }
        }
    }
    return four;
}

DEVICE Four load_four(const u16* row, u32 first, u32 width) {
    Four four = {{0, 0, 0, 0}};
    if (first + 4 <= width && is_aligned(row, 8)) {
        TwoWords words = load_8(row + first);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            four.at[i] = float_from_bf16(words.at[i / 2] >> (16 * (i % 2)) & 0xffff);
        }
    } else {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            if (first + i < width) {
                four.at[i] = float_from_bf16(row[first + i]);
            }
        }
    }
    return four;
}

// Writes what lies within the row of elements `first` to `first + 3`.
DEVICE void store_four(float* row, u32 first, u32 width, const Four& four) {
    if (first + 4 <= width && is_aligned(row, 16)) {
        FourWords words;
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            words.at[i] = bits_of_float(four.at[i]);
        }
        store_16(row + first, words);
    } else {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            if (first + i < width) {
                row[first + i] = four.at[i];
            }
        }
    }
}

// The same, rounded to bf16.
DEVICE void store_four(u16* row, u32 first, u32 width, const Four& four) {
    TwoWords words = {{pack_bf16(four.at[0], four.at[1]), pack_bf16(four.at[2], four.at[3])}};
    if (first + 4 <= width && is_aligned(row, 8)) {
        store_8(row + first, words);
    } else {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            if (first + i < width) {
                row[first + i] = static_cast<u16>(words.at[i / 2] >> (16 * (i % 2)));
            }
        }
    }
}

// e^x as the CPU's kernels compute it, with the same bits: relative error below 2e-7 from -87.3 to 88, and 0 below.
DEVICE float exponential(float x) {
    // 1.5 * 2^23: adding it rounds to an integer.
    const float rounding = 12582912.0f;
    // NaN stays NaN, so this compares instead of taking the smaller and the larger.
    float clamped = x < -87.3f ? -87.3f : x > 88.3f ? 88.3f : x;
    float shifted = fused(clamped, 1.44269504f, rounding);
    float n = add(shifted, -rounding);
    float r = fused(n, -0.69314575f, clamped);
    r = fused(n, -1.4286068e-6f, r);
    float p = 1.3888889e-3f;
    p = fused(p, r, 8.333334e-3f);
    p = fused(p, r, 4.1666667e-2f);
    p = fused(p, r, 0.16666667f);
    p = fused(p, r, 0.5f);
    p = fused(p, r, 1.0f);
    p = fused(p, r, 1.0f);
    float power = float_from_bits((bits_of_float(shifted) << 23) + 0x3f800000u);
    float result = mul(p, power);
    return x < -87.3f ? 0.0f : result;
}

// tanh with an absolute error below 2e-7, and the CPU's bits.
DEVICE float hyperbolic_tangent(float x) {
    float magnitude = float_from_bits(bits_of_float(x) & 0x7fffffffu);
    float square = mul(x, x);
    float p = -5.704988e-3f;
    p = fused(p, square, 2.0639088e-2f);
    p = fused(p, square, -5.3739715e-2f);
    p = fused(p, square, 0.13331444f);
    p = fused(p, square, -0.3333328f);
    float small = mul(x, fused(p, square, 1.0f));
    float large = add(1.0f, -divide(2.0f, add(exponential(mul(2.0f, magnitude)), 1.0f)));
    // The sign of x. NaN has a large magnitude here, and stays NaN.
    large = float_from_bits((bits_of_float(large) & 0x7fffffffu) | (bits_of_float(x) & 0x80000000u));
    return magnitude < 0.625f ? small : large;
}
