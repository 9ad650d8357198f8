/* float16 and bfloat16, kept as bits, to and from float. Integer operations vectorise in every instruction set, where
 * _Float16 arithmetic stays scalar. Rounding is to nearest, ties to even, as in torch and in hardware. */
#ifndef RPROP_HALF_H
#define RPROP_HALF_H

#include <stdint.h>
#include <string.h>

#include "isa.h"

typedef uint16_t half_t;
typedef uint16_t bfloat16_t;

static RPROP_INLINE uint32_t bits_of_float(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static RPROP_INLINE float float_of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }

static RPROP_INLINE float half_to_float(half_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = h & 0x7fffu;
    uint32_t rebias = magnitude < 0x7c00u ? 112u << 23 : 224u << 23; /* inf and NaN keep all exponent bits */
    uint32_t normal = (magnitude << 13) + rebias;
    /* 2^-24: exact, and right where denormals are flushed, too */
    uint32_t denormal = bits_of_float((float)(int32_t)magnitude * 5.9604644775390625e-8f);
    return float_of_bits((magnitude < 0x0400u ? denormal : normal) | sign);
}

static RPROP_INLINE half_t float_to_half(float x)
{
    uint32_t bits = bits_of_float(x);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    uint32_t denormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u; /* 0.5 has the ulp 2^-24 */
    uint32_t small = 0u - (uint32_t)(magnitude < 0x38800000u); /* a mask: gcc 12 makes a branch of `?:` here, */
    uint32_t finite = (denormal & small) | (normal & ~small);  /* which takes thirty times as long */
    finite = finite > 0x7c00u ? 0x7c00u : finite;
    finite = magnitude > 0x7f7fffffu ? 0x7c00u : finite;
    finite = magnitude > 0x7f800000u ? 0x7e00u : finite;
    return (half_t)(finite | sign);
}

static RPROP_INLINE float bfloat16_to_float(bfloat16_t b) { return float_of_bits((uint32_t)b << 16); }

static RPROP_INLINE bfloat16_t float_to_bfloat16(float x)
{
    uint32_t bits = bits_of_float(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (bfloat16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

#endif
