// Functions of one number by +, −, ×, ÷ alone, which the compiler vectorizes: all variants give the same bits.
#pragma once
#include <cstring>

#include "generic.h"

#define QDIT_EXPORT extern "C" __attribute__((visibility("default")))
#define QDIT_AVX2 __attribute__((target("avx2,fma")))
#define QDIT_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))

namespace qdit {

QDIT_INLINE float from_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

QDIT_INLINE int32_t to_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

QDIT_INLINE float power_of_two(float x) {  // 2^x; below 2^-126 and above 2^127 it stays there
    x = x < -126.f ? -126.f : x;
    x = x > 127.f ? 127.f : x;
    const float shifted = x + 12582912.f;  // 1.5 x 2^23: the last bits hold the whole part
    const float whole = shifted - 12582912.f, t = (x - whole) * 0.693147180559945f;
    float y = 1.f / 5040;
    y = y * t + 1.f / 720;
    y = y * t + 1.f / 120;
    y = y * t + 1.f / 24;
    y = y * t + 1.f / 6;
    y = y * t + 0.5f;
    y = y * t + 1.f;
    y = y * t + 1.f;
    return y * from_bits((static_cast<int32_t>(whole) + 127) << 23);
}

QDIT_INLINE float logarithm_of(float x) {  // base 2, of a number that is not negative; 0 gives about -127
    const int32_t bits = to_bits(x), above = bits - 0x3f3504f3;  // sqrt(1/2): mantissas from there to sqrt(2)
    const float exponent = static_cast<float>(above >> 23);
    const float mantissa = from_bits((above & 0x007fffff) + 0x3f3504f3);
    const float s = (mantissa - 1.f) / (mantissa + 1.f), squared = s * s;
    float y = 1.f / 9;
    y = y * squared + 1.f / 7;
    y = y * squared + 1.f / 5;
    y = y * squared + 1.f / 3;
    y = y * squared + 1.f;
    return exponent + 2.88539008177793f * s * y;
}

QDIT_INLINE float sigmoid_of(float x) { return 1.f / (1.f + power_of_two(x * -1.44269504088896f)); }

// GELU by the tanh form, and its slope.
QDIT_INLINE void gelu_of(const float* __restrict x, int64_t count, float* __restrict y, float* __restrict slope) {
    const float inner = 0.797884560802865f, cube = 0.044715f;  // sqrt(2 / pi)
    for (int64_t i = 0; i < count; ++i) {
        const float v = x[i], squared = v * v;
        const float s = sigmoid_of(2.f * inner * (v + cube * v * squared));  // (1 + tanh u) / 2
        y[i] = v * s;
        slope[i] = s + v * (s - s * s) * 2.f * inner * (1.f + 3.f * cube * squared);
    }
}

// Values on the grid of one scale.
struct Grid {
    float scale, zero, levels;
};

QDIT_INLINE float nearest(float x) {  // halves go to even; x of 2^22 and more is whole enough
    const float shifted = x + 12582912.f;
    return x < 4194304.f && x > -4194304.f ? shifted - 12582912.f : x;
}

QDIT_INLINE void on_grid(const Grid& grid, const float* __restrict x, int64_t count, float* __restrict y) {
    const float scale = grid.scale, zero = grid.zero, levels = grid.levels;
    for (int64_t i = 0; i < count; ++i) {
        float code = nearest(x[i] / scale) + zero;
        code = code < 0.f ? 0.f : code;
        code = code > levels ? levels : code;
        y[i] = (code - zero) * scale;
    }
}

}  // namespace qdit
