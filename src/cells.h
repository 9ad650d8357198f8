/* What Cython cannot say: the two 16-bit floating types, and functions compiled for an instruction set. */
#ifndef RPROP_CELLS_H
#define RPROP_CELLS_H

#include <stdint.h>
#include <string.h>

/* IEEE binary16 and bfloat16, kept as bits. Structs, so that the two are different types; read and written by
 * their member, since gcc does not vectorise the copy of a struct. */
typedef struct { uint16_t bits; } half_cell;
typedef struct { uint16_t bits; } brain_cell;

#if defined(_MSC_VER)
#define RPROP_INLINE __forceinline
#else
#define RPROP_INLINE inline __attribute__((always_inline))
#endif

/* x86-64-v4 has AVX-512, x86-64-v3 AVX2. gcc from 12 on knows both by these names; elsewhere the
 * baseline is all there is (NEON on arm64, which the compiler uses by itself). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define RPROP_LEVELS 3
#define RPROP_BASELINE_WIDE 0
#define RPROP_V3 __attribute__((target("arch=x86-64-v3")))
#define RPROP_V4 __attribute__((target("arch=x86-64-v4")))
static int rprop_best_level(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return 2;
    return __builtin_cpu_supports("x86-64-v3") ? 1 : 0;
}
#else
#define RPROP_LEVELS 1
#if defined(__x86_64__) || defined(_M_X64)
#define RPROP_BASELINE_WIDE 0
#else
#define RPROP_BASELINE_WIDE 1
#endif
#define RPROP_V3
#define RPROP_V4
static int rprop_best_level(void) { return 0; }
#endif

static RPROP_INLINE uint32_t float_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static RPROP_INLINE float bits_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

static RPROP_INLINE uint64_t double_bits(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
static RPROP_INLINE double bits_double(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }

/* A mask is a number with all bits set or none, as in a vector register: a select by bits or by `?:` on a mask's
 * sign takes three quarters of the time of one by a comparison, since gcc neither repeats the comparison with its
 * outcome turned round nor multiplies by a sign. One meaning in both types:
 * above(a, b)             mask of a > b; none where one is NaN
 * differs(a, b)           mask of a != b; all where one is NaN
 * negative(x)             mask of x's sign bit
 * both(a, b)              the bits of both: a where the mask b
 * but_not(a, b)           a where not the mask b
 * joined(a, b)            a and b, of which one is +0
 * with_sign(x, like)      x, negated where like has its sign bit set
 * pick(mask, a, b)        a where mask (or any number below +0), else b
 * scaled(x, e, mask)      x * 2^e where mask, else x; ordinary numbers all */
static RPROP_INLINE float above_float(float a, float b) { return bits_float(0u - (uint32_t)(a > b)); }
static RPROP_INLINE float differs_float(float a, float b) { return bits_float(0u - (uint32_t)(a != b)); }
static RPROP_INLINE float negative_float(float x) { return bits_float((uint32_t)((int32_t)float_bits(x) >> 31)); }
static RPROP_INLINE float both_float(float a, float b) { return bits_float(float_bits(a) & float_bits(b)); }
static RPROP_INLINE float but_not_float(float a, float b) { return bits_float(float_bits(a) & ~float_bits(b)); }
static RPROP_INLINE float joined_float(float a, float b) { return bits_float(float_bits(a) | float_bits(b)); }
static RPROP_INLINE float signed_float(float x, float like) {
    return bits_float(float_bits(x) ^ (float_bits(like) & 0x80000000u));
}
static RPROP_INLINE float pick_float(float mask, float a, float b) { return (int32_t)float_bits(mask) < 0 ? a : b; }
static RPROP_INLINE float scaled_float(float x, int exponent, float mask) {
    return bits_float(float_bits(x) + ((uint32_t)exponent << 23 & float_bits(mask)));
}

static RPROP_INLINE double above_double(double a, double b) { return bits_double(0u - (uint64_t)(a > b)); }
static RPROP_INLINE double differs_double(double a, double b) { return bits_double(0u - (uint64_t)(a != b)); }
static RPROP_INLINE double negative_double(double x) { return bits_double((uint64_t)((int64_t)double_bits(x) >> 63)); }
static RPROP_INLINE double both_double(double a, double b) { return bits_double(double_bits(a) & double_bits(b)); }
static RPROP_INLINE double but_not_double(double a, double b) { return bits_double(double_bits(a) & ~double_bits(b)); }
static RPROP_INLINE double joined_double(double a, double b) { return bits_double(double_bits(a) | double_bits(b)); }
static RPROP_INLINE double signed_double(double x, double like) {
    return bits_double(double_bits(x) ^ (double_bits(like) & 0x8000000000000000u));
}
/* `wide`: whether the instruction set compares 64-bit integers (SSE2 does not: there `?:` becomes a branch). */
static RPROP_INLINE double pick_double(int wide, double mask, double a, double b) {
    if (wide) return (int64_t)double_bits(mask) < 0 ? a : b;
    mask = negative_double(mask);
    return joined_double(both_double(a, mask), but_not_double(b, mask));
}
static RPROP_INLINE double scaled_double(double x, int exponent, double mask) {
    return bits_double(double_bits(x) + ((uint64_t)(int64_t)exponent << 52 & double_bits(mask)));
}

/* Integer conversions vectorise at every level, where _Float16 arithmetic stays scalar. All selects are
 * branch-free. Rounding is to nearest, ties to even, as in torch and in hardware. */

static RPROP_INLINE float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = h & 0x7fffu;
    uint32_t rebias = magnitude < 0x7c00u ? 112u << 23 : 224u << 23; /* inf and NaN keep all exponent bits */
    uint32_t normal = (magnitude << 13) + rebias;
    uint32_t denormal = float_bits((float)(int32_t)magnitude * 5.9604644775390625e-8f); /* 2^-24: exact, also where denormals are flushed */
    return bits_float((magnitude < 0x0400u ? denormal : normal) | sign);
}

static RPROP_INLINE uint16_t float_to_half(float x) {
    uint32_t u = float_bits(x);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t magnitude = u & 0x7fffffffu;
    uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    uint32_t denormal = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u; /* 0.5 has the ulp 2^-24 */
    uint32_t small = 0u - (uint32_t)(magnitude < 0x38800000u); /* a mask: as `?:` gcc 12 makes it a branch, */
    uint32_t finite = (denormal & small) | (normal & ~small);   /* thirty times slower */
    finite = finite > 0x7c00u ? 0x7c00u : finite;
    finite = magnitude > 0x7f7fffffu ? 0x7c00u : finite;
    finite = magnitude > 0x7f800000u ? 0x7e00u : finite;
    return (uint16_t)(finite | sign);
}

static RPROP_INLINE float brain_to_float(uint16_t b) { return bits_float((uint32_t)b << 16); }

static RPROP_INLINE uint16_t float_to_brain(float x) {
    uint32_t u = float_bits(x);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

/* The part of the DLPack exchange table that is used (DLPack 1.2, "dlpack_exchange_api"). */
typedef struct { uint32_t major, minor; } dl_version;
typedef struct dl_header { dl_version version; struct dl_header *previous; } dl_header;
typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;
typedef struct {
    dl_header header;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*describe)(void *object, dl_tensor *out);
    void *current_stream;
} dl_exchange;

/* libgomp's entry points, found at run time: see kernels/cython_.py. */
typedef void (*gomp_parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
typedef int (*omp_query)(void);

#endif
