/* kernels/half.h - BF16 and F16 from and to float, bit by bit: the one definition of "round to nearest even".
 *
 *   BF16  1 sign  8 exponent   7 mantissa     a float's upper half
 *   F16   1 sign  5 exponent  10 mantissa     bias 15; subnormals are multiples of 2^-24; above 65504: inf
 *
 * Widening is exact.  A NaN stays a NaN of its sign, made quiet.  Selections only, so that loops over these
 * vectorise.
 */
#ifndef DML_KERNELS_HALF_H
#define DML_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

typedef uint16_t dml_bf16; /* elements of BF16 and F16 tensors, as bits */
typedef uint16_t dml_f16;

static inline uint32_t dml_float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float dml_float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float dml_bf16_to_float(dml_bf16 h)
{
    return dml_float_of_bits((uint32_t)h << 16);
}

static inline dml_bf16 dml_bf16_of_float(float f)
{
    const uint32_t bits = dml_float_bits(f), odd = bits >> 16 & 1;
    const uint32_t rounded = (bits + UINT32_C(0x7fff) + odd) >> 16; /* a carry ends at inf */
    const uint32_t nan = bits >> 16 | UINT32_C(0x40);
    return (dml_bf16)((bits & UINT32_C(0x7fffffff)) > UINT32_C(0x7f800000) ? nan : rounded);
}

static inline float dml_f16_to_float(dml_f16 h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, low = (uint32_t)(h & 0x7fff) << 13;
    const uint32_t normal = low + (UINT32_C(112) << 23);
    const uint32_t special = low | UINT32_C(0x7f800000);
    const uint32_t quiet = (h & 0x3ff) ? UINT32_C(1) << 22 : 0;
    const float sub = (float)(int32_t)(h & 0x3ff) * 0x1p-24f; /* exact */
    const uint32_t finite = low < UINT32_C(1) << 23 ? dml_float_bits(sub) : normal;
    return dml_float_of_bits(sign | (low < UINT32_C(0x0f800000) ? finite : special | quiet));
}

static inline dml_f16 dml_f16_of_float(float f)
{
    const uint32_t bits = dml_float_bits(f), sign = bits >> 16 & UINT32_C(0x8000);
    const uint32_t size = bits & UINT32_C(0x7fffffff), odd = size >> 13 & 1;
    /* 0.5 has its last bit at 2^-24, so the addition rounds to it */
    const uint32_t sub = dml_float_bits(dml_float_of_bits(size) + 0.5f) - dml_float_bits(0.5f);
    const uint32_t normal = (size - (UINT32_C(112) << 23) + UINT32_C(0xfff) + odd) >> 13;
    const uint32_t nan = UINT32_C(0x7e00) | (size >> 13 & UINT32_C(0x3ff));
    const uint32_t small = size < UINT32_C(0x38800000) ? sub : normal; /* 2^-14 */
    const uint32_t large = size > UINT32_C(0x7f800000) ? nan : UINT32_C(0x7c00);
    return (dml_f16)(sign | (size < UINT32_C(0x47800000) ? small : large)); /* 2^16 */
}

#endif
