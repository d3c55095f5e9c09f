// Floating-point work around the integer product: the transform of a row, and the two thin products of a low-rank
// branch. Every sum has one order, and each step rounds once, so all variants give the same bits.
#include <cmath>

#include "generic.h"
#include "processor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define QDIT_AVX2 __attribute__((target("avx2,fma")))
#define QDIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))
#endif

namespace qdit {
namespace {

QDIT_INLINE void each_channel(float* __restrict x, int64_t width, const TransformStep& step) {
    const float* __restrict values = step.values;
    if (step.kind == kDivide) {
        for (int64_t i = 0; i < width; ++i) x[i] = x[i] / values[i];
    } else if (step.kind == kSubtract) {
        for (int64_t i = 0; i < width; ++i) x[i] = x[i] - values[i];
    } else {
        for (int64_t i = 0; i < width; ++i) x[i] = x[i] * values[i];
    }
}

// (a, b) -> ((a + b) factor, (a - b) factor) for elements that are `half` apart.
QDIT_INLINE void butterflies(float* x, int64_t width, int64_t half, float factor) {
    for (float* end = x + width; x < end; x += 2 * half) {
        float *__restrict low = x, *__restrict high = x + half;
        for (int64_t i = 0; i < half; ++i) {
            const float a = low[i], b = high[i];
            low[i] = (a + b) * factor;
            high[i] = (a - b) * factor;
        }
    }
}

// Only the last stage scales: a factor of 1 changes no bit.
inline float factor_of(int64_t half, int64_t size) {
    return 2 * half < size ? 1.0f : static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
}

void transform_generic(float* x, int64_t width, const TransformStep& step) {
    if (step.kind != kHadamard) return each_channel(x, width, step);
    for (int64_t half = 1; half < step.size; half *= 2) butterflies(x, width, half, factor_of(half, step.size));
}

void product_generic(int rows, const Product& p) {
    for (int r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < p.columns; n += 16) {
            float sums[16] = {};
            for (int64_t k = 0; k < p.count; ++k) {
                const float a = p.a[r * p.a_stride + k];
                for (int i = 0; i < 16; ++i) sums[i] = std::fma(a, p.b[k * p.b_stride + n + i], sums[i]);
            }
            float* out = p.out + r * p.out_stride + n;
            for (int i = 0; i < 16; ++i) out[i] = p.first ? sums[i] : out[i] + sums[i];
        }
    }
}

#if defined(__x86_64__)
// The stages inside a vector: every lane becomes the other one of its pair plus or minus itself. The product with +1 or
// -1 is exact, so this fused multiply-add rounds like the sum.
QDIT_AVX512 void stages_avx512(float* x, int64_t width, int64_t size) {
    const __m512 lane = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i number = _mm512_cvtps_epi32(lane);
    __m512 signs[4], factors[4];
    for (int s = 0; s < 4; ++s) {
        const __mmask16 upper = _mm512_test_epi32_mask(number, _mm512_set1_epi32(1 << s));
        signs[s] = _mm512_mask_blend_ps(upper, _mm512_set1_ps(1), _mm512_set1_ps(-1));
        factors[s] = _mm512_set1_ps(factor_of(1 << s, size));
    }
    for (int64_t i = 0; i < width; i += 16) {
        const __mmask16 lanes = width - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (width - i)) - 1);
        __m512 v = _mm512_maskz_loadu_ps(lanes, x + i);
        v = _mm512_mul_ps(_mm512_fmadd_ps(v, signs[0], _mm512_permute_ps(v, 0xb1)), factors[0]);
        if (size > 2) v = _mm512_mul_ps(_mm512_fmadd_ps(v, signs[1], _mm512_permute_ps(v, 0x4e)), factors[1]);
        if (size > 4) v = _mm512_mul_ps(_mm512_fmadd_ps(v, signs[2], _mm512_shuffle_f32x4(v, v, 0xb1)), factors[2]);
        if (size > 8) v = _mm512_mul_ps(_mm512_fmadd_ps(v, signs[3], _mm512_shuffle_f32x4(v, v, 0x4e)), factors[3]);
        _mm512_mask_storeu_ps(x + i, lanes, v);
    }
}

QDIT_AVX512 void transform_avx512(float* x, int64_t width, const TransformStep& step) {
    if (step.kind != kHadamard) return each_channel(x, width, step);
    stages_avx512(x, width, step.size);
    for (int64_t half = 16; half < step.size; half *= 2) butterflies(x, width, half, factor_of(half, step.size));
}

QDIT_AVX2 void stages_avx2(float* x, int64_t width, int64_t size) {
    const __m256 first = _mm256_set1_ps(factor_of(1, size)), second = _mm256_set1_ps(factor_of(2, size));
    const __m256 third = _mm256_set1_ps(factor_of(4, size));
    for (int64_t i = 0; i + 8 <= width; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = _mm256_fmadd_ps(v, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), _mm256_permute_ps(v, 0xb1));
        v = _mm256_mul_ps(v, first);
        if (size > 2) {
            v = _mm256_fmadd_ps(v, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), _mm256_permute_ps(v, 0x4e));
            v = _mm256_mul_ps(v, second);
        }
        if (size > 4) {
            v = _mm256_fmadd_ps(v, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), _mm256_permute2f128_ps(v, v, 1));
            v = _mm256_mul_ps(v, third);
        }
        _mm256_storeu_ps(x + i, v);
    }
    const int64_t left = width % 8;  // only blocks of 2 and 4 leave some
    for (int64_t half = 1; left && half < size; half *= 2) {
        butterflies(x + width - left, left, half, factor_of(half, size));
    }
}

QDIT_AVX2 void transform_avx2(float* x, int64_t width, const TransformStep& step) {
    if (step.kind != kHadamard) return each_channel(x, width, step);
    stages_avx2(x, width, step.size);
    for (int64_t half = 8; half < step.size; half *= 2) butterflies(x, width, half, factor_of(half, step.size));
}

// kRows rows and 16 kVectors columns from column n: the sums stay in registers.
template <int kRows, int kVectors>
QDIT_AVX512 void block_avx512(const Product& p, int64_t n) {
    __m512 sums[kRows][kVectors];
    for (auto& row : sums) for (auto& sum : row) sum = _mm512_setzero_ps();
    const float* b = p.b + n;
    for (int64_t k = 0; k < p.count; ++k, b += p.b_stride) {
        __m512 right[kVectors];
        for (int v = 0; v < kVectors; ++v) right[v] = _mm512_loadu_ps(b + 16 * v);
        for (int r = 0; r < kRows; ++r) {
            const __m512 left = _mm512_set1_ps(p.a[r * p.a_stride + k]);
            for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_fmadd_ps(left, right[v], sums[r][v]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
            float* out = p.out + r * p.out_stride + n + 16 * v;
            _mm512_storeu_ps(out, p.first ? sums[r][v] : _mm512_add_ps(_mm512_loadu_ps(out), sums[r][v]));
        }
    }
}

template <int kRows, int kVectors>  // of 8 columns
QDIT_AVX2 void block_avx2(const Product& p, int64_t n) {
    __m256 sums[kRows][kVectors];
    for (auto& row : sums) for (auto& sum : row) sum = _mm256_setzero_ps();
    const float* b = p.b + n;
    for (int64_t k = 0; k < p.count; ++k, b += p.b_stride) {
        __m256 right[kVectors];
        for (int v = 0; v < kVectors; ++v) right[v] = _mm256_loadu_ps(b + 8 * v);
        for (int r = 0; r < kRows; ++r) {
            const __m256 left = _mm256_set1_ps(p.a[r * p.a_stride + k]);
            for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_fmadd_ps(left, right[v], sums[r][v]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
            float* out = p.out + r * p.out_stride + n + 8 * v;
            _mm256_storeu_ps(out, p.first ? sums[r][v] : _mm256_add_ps(_mm256_loadu_ps(out), sums[r][v]));
        }
    }
}

template <int kRows>
void rows_avx512(const Product& p) {
    int64_t n = 0;
    for (; n + 48 <= p.columns; n += 48) block_avx512<kRows, 3>(p, n);
    for (; n < p.columns; n += 16) block_avx512<kRows, 1>(p, n);
}

template <int kRows>
void rows_avx2(const Product& p) {
    for (int64_t n = 0; n < p.columns; n += 16) block_avx2<kRows, 2>(p, n);
}

template <void (*kAll)(const Product&), void (*kOne)(const Product&)>
void product_with(int rows, const Product& p) {
    if (rows == kTileRows) return kAll(p);
    Product row = p;
    for (int r = 0; r < rows; ++r, row.a += p.a_stride, row.out += p.out_stride) kOne(row);
}
#endif

}  // namespace

const FloatKernel& float_kernel(int variant) {
    static const FloatKernel generic{transform_generic, product_generic};
#if defined(__x86_64__)
    static const FloatKernel avx2{transform_avx2, product_with<rows_avx2<kTileRows>, rows_avx2<1>>};
    static const FloatKernel avx512{transform_avx512, product_with<rows_avx512<kTileRows>, rows_avx512<1>>};
    if (is_avx512(variant)) return avx512;
    if (is_avx2(variant)) return avx2;
#endif
    return generic;
}

}  // namespace qdit
