// Gradients of the modulated LayerNorm, for learning a block. Sums have a fixed order in 16 lanes and nothing is contracted,
// so every variant gives the same bits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "elementary.h"
#include "processor.h"

namespace {

constexpr int64_t kLanes = 16;

typedef float Floats __attribute__((vector_size(4 * kLanes)));

// By reference: a function that takes or returns vectors has another ABI on each target.
QDIT_INLINE void load(Floats& to, const float* from) { std::memcpy(&to, from, sizeof to); }
QDIT_INLINE void store(float* to, const Floats& from) { std::memcpy(to, &from, sizeof from); }

QDIT_INLINE float sum_of(const Floats& lanes) {
    float halves[kLanes];
    store(halves, lanes);
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (int64_t i = 0; i < width; ++i) halves[i] = halves[i] + halves[i + width];
    }
    return halves[0];
}

// A sum over a row: whole lanes, and the values that fill none.
struct Sum {
    Floats lanes = {};
    float rest = 0;
    QDIT_INLINE float total(const Sum& sum) { return sum_of(sum.lanes) + sum.rest; }
};

// y = normed(x) * (1 + scale) + shift. `of_shift` and `of_scale` may be null; so may `of_x`.
struct Norm {
    int64_t samples, tokens, width;
    const float *x, *scale, *gradient;  // scale: a row for each sample, `scale_stride` apart
    int64_t scale_stride;
    float epsilon;
    float *of_x, *of_shift, *of_scale;
    int64_t of_stride;  // of the rows of of_shift and of_scale
};

QDIT_INLINE void mean_and_inverse(const Norm& n, const float* x, float& mean, float& inverse) {
    const int64_t whole = n.width / kLanes * kLanes;
    Sum sums, squares;
    Floats v;
    for (int64_t i = 0; i < whole; i += kLanes) {
        load(v, x + i);
        sums.lanes = sums.lanes + v;
    }
    for (int64_t i = whole; i < n.width; ++i) sums.rest = sums.rest + x[i];
    mean = Sum::total(sums) / static_cast<float>(n.width);
    for (int64_t i = 0; i < whole; i += kLanes) {
        load(v, x + i);
        v = v - mean;
        squares.lanes = squares.lanes + v * v;
    }
    for (int64_t i = whole; i < n.width; ++i) squares.rest = squares.rest + (x[i] - mean) * (x[i] - mean);
    inverse = 1.0f / std::sqrt(Sum::total(squares) / static_cast<float>(n.width) + n.epsilon);
}

QDIT_INLINE void add_modulation(const Norm& n, const float* x, const float* g, float mean, float inverse, float* shift,
                                float* scale) {
    for (int64_t i = 0; i < n.width; ++i) shift[i] = shift[i] + g[i];
    for (int64_t i = 0; i < n.width; ++i) scale[i] = scale[i] + g[i] * ((x[i] - mean) * inverse);
}

QDIT_INLINE void of_input(const Norm& n, const float* x, const float* g, const float* scale, float mean, float inverse,
                          float* of_x) {
    const int64_t whole = n.width / kLanes * kLanes;
    Sum plain, along;  // sums of h and of h * normed, where h is the gradient of normed
    Floats v, h, factor;
    for (int64_t i = 0; i < whole; i += kLanes) {
        load(v, x + i);
        load(h, g + i);
        load(factor, scale + i);
        h = h * (factor + 1.0f);
        plain.lanes = plain.lanes + h;
        along.lanes = along.lanes + h * ((v - mean) * inverse);
    }
    for (int64_t i = whole; i < n.width; ++i) {
        const float single = g[i] * (scale[i] + 1.0f);
        plain.rest = plain.rest + single;
        along.rest = along.rest + single * ((x[i] - mean) * inverse);
    }
    const float level = Sum::total(plain) / static_cast<float>(n.width);
    const float slope = Sum::total(along) / static_cast<float>(n.width);
    for (int64_t i = 0; i < n.width; ++i) {
        of_x[i] = inverse * (g[i] * (scale[i] + 1.0f) - level - (x[i] - mean) * inverse * slope);
    }
}

QDIT_INLINE void norm_gradients(const Norm& n) {
    for (int64_t sample = 0; sample < n.samples; ++sample) {
        const float* scale = n.scale + sample * n.scale_stride;
        float* of_shift = n.of_shift == nullptr ? nullptr : n.of_shift + sample * n.of_stride;
        float* of_scale = n.of_scale == nullptr ? nullptr : n.of_scale + sample * n.of_stride;
        if (of_shift != nullptr) {
            std::fill(of_shift, of_shift + n.width, 0.0f);
            std::fill(of_scale, of_scale + n.width, 0.0f);
        }
        for (int64_t token = 0; token < n.tokens; ++token) {
            const int64_t at = (sample * n.tokens + token) * n.width;
            float mean, inverse;
            mean_and_inverse(n, n.x + at, mean, inverse);
            if (of_shift != nullptr) {
                add_modulation(n, n.x + at, n.gradient + at, mean, inverse, of_shift, of_scale);
            }
            if (n.of_x != nullptr) of_input(n, n.x + at, n.gradient + at, scale, mean, inverse, n.of_x + at);
        }
    }
}

#if defined(__x86_64__)
QDIT_AVX2 void norm_avx2(const Norm& n) { norm_gradients(n); }
QDIT_AVX512 void norm_avx512(const Norm& n) { norm_gradients(n); }
#endif

}  // namespace

QDIT_EXPORT void qdit_norm_gradients(int variant, const float* x, int64_t samples, int64_t tokens, int64_t width,
                                     const float* scale, int64_t scale_stride, float epsilon, const float* gradient,
                                     float* of_x, float* of_shift, float* of_scale, int64_t of_stride) {
    const Norm n{samples, tokens, width, x, scale, gradient, scale_stride, epsilon, of_x, of_shift, of_scale, of_stride};
#if defined(__x86_64__)
    if (qdit::is_avx2(variant)) return norm_avx2(n);
    if (variant == qdit::kAvx512Vnni) return norm_avx512(n);
#endif
    norm_gradients(n);
}
