// Modulated LayerNorm and attention of few tokens, each in one pass. Sums have a fixed order in 16 lanes and nothing is
// contracted, so every variant of a processor gives the same bits. docs/kernels.md explains both.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "block.h"
#include "kernel.h"
#include "processor.h"

namespace {

using namespace qdit;

constexpr int kBlock = 8;  // keys, then channels, whose sums are in registers

struct Norm {
    int64_t samples, tokens, width;
    const float *x, *shift, *scale;  // shift and scale: a row for each sample, `stride` apart
    int64_t shift_stride, scale_stride;
    float epsilon;
    float* y;
};

// y = (x - mean) / sqrt(variance + epsilon) * (1 + scale) + shift, the variance that of all values.
QDIT_INLINE void norm_rows(const Norm& n) {
    const int64_t whole = n.width / kLanes * kLanes;
    for (int64_t sample = 0; sample < n.samples; ++sample) {
        const float *shift = n.shift + sample * n.shift_stride, *scale = n.scale + sample * n.scale_stride;
        for (int64_t token = 0; token < n.tokens; ++token) {
            const float* x = n.x + (sample * n.tokens + token) * n.width;
            float* y = n.y + (sample * n.tokens + token) * n.width;
            Floats sums = {}, squares = {}, v;
            float rest = 0, rest_squares = 0;
            for (int64_t i = 0; i < whole; i += kLanes) {
                load(v, x + i);
                sums = sums + v;
            }
            for (int64_t i = whole; i < n.width; ++i) rest = rest + x[i];
            const float mean = (sum_of(sums) + rest) / static_cast<float>(n.width);
            for (int64_t i = 0; i < whole; i += kLanes) {
                load(v, x + i);
                v = v - mean;
                squares = squares + v * v;
            }
            for (int64_t i = whole; i < n.width; ++i) rest_squares = rest_squares + (x[i] - mean) * (x[i] - mean);
            const float variance = (sum_of(squares) + rest_squares) / static_cast<float>(n.width);
            const float inverse = 1.0f / std::sqrt(variance + n.epsilon);
            for (int64_t i = 0; i < whole; i += kLanes) {
                Floats factor, offset;
                load(v, x + i);
                load(factor, scale + i);
                load(offset, shift + i);
                store(y + i, (v - mean) * inverse * (factor + 1.0f) + offset);
            }
            for (int64_t i = whole; i < n.width; ++i) y[i] = (x[i] - mean) * inverse * (scale[i] + 1.0f) + shift[i];
        }
    }
}

// e^x for x <= 0 (below -87: e^-87), within 2 units in the last place; NaN stays NaN.
QDIT_INLINE void exponential(Floats& x) {
    const Floats floor = Floats{} - 87.0f, magic = Floats{} + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
    x = x < floor ? floor : x;
    const Floats shifted = x * 1.44269504088896341f + magic, whole = shifted - magic;
    const Floats r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    Floats p = r * (1.0f / 5040) + (1.0f / 720);
    p = p * r + (1.0f / 120);
    p = p * r + (1.0f / 24);
    p = p * r + (1.0f / 6);
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    Ints exponent, bits;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::memcpy(&bits, &p, sizeof bits);
    bits = bits + (exponent << 23);
    std::memcpy(&x, &bits, sizeof x);
}

struct Attention {
    int64_t samples, tokens, heads, channels;  // channels of one head
    const float* qkv;                          // (samples, tokens, 3, heads, channels)
    float scale;
    float* y;  // (samples, tokens, heads, channels)
};

// A lane is a query: no sum goes across lanes, and keys and values are read where they lie.
struct Scratch {
    Floats queries[kMostChannels], weights[kMostTokens], sums[kMostChannels];
};

QDIT_INLINE void scores(const Attention& a, const float* key, Scratch& s) {
    const int64_t stride = 3 * a.heads * a.channels;
    for (int64_t first = 0; first < a.tokens; first += kBlock) {
        const float* keys[kBlock];
        for (int k = 0; k < kBlock; ++k) keys[k] = key + std::min(first + k, a.tokens - 1) * stride;
        Floats sums[kBlock] = {};
        for (int64_t c = 0; c < a.channels; ++c) {
            const Floats query = s.queries[c];
            for (int k = 0; k < kBlock; ++k) sums[k] = sums[k] + query * keys[k][c];
        }
        for (int64_t k = 0; k < kBlock && first + k < a.tokens; ++k) s.weights[first + k] = sums[k];
    }
}

QDIT_INLINE void softmax(int64_t tokens, Scratch& s) {
    Floats largest = s.weights[0], total = {};
    for (int64_t t = 1; t < tokens; ++t) largest = s.weights[t] > largest ? s.weights[t] : largest;
    for (int64_t t = 0; t < tokens; ++t) {
        Floats weight = s.weights[t] - largest;
        exponential(weight);
        s.weights[t] = weight;
        total = total + weight;
    }
    const Floats inverse = 1.0f / total;
    for (int64_t t = 0; t < tokens; ++t) s.weights[t] = s.weights[t] * inverse;
}

QDIT_INLINE void mix(const Attention& a, const float* value, Scratch& s) {
    const int64_t stride = 3 * a.heads * a.channels;
    for (int64_t first = 0; first < a.channels; first += kBlock) {
        int64_t channels[kBlock];
        for (int c = 0; c < kBlock; ++c) channels[c] = std::min(first + c, a.channels - 1);
        Floats sums[kBlock] = {};
        for (int64_t t = 0; t < a.tokens; ++t) {
            const Floats weight = s.weights[t];
            for (int c = 0; c < kBlock; ++c) sums[c] = sums[c] + weight * value[t * stride + channels[c]];
        }
        for (int64_t c = 0; c < kBlock && first + c < a.channels; ++c) s.sums[first + c] = sums[c];
    }
}

QDIT_INLINE void attention_heads(const Attention& a, Scratch& s) {
    const int64_t width = a.heads * a.channels, stride = 3 * width;
    float* queries = reinterpret_cast<float*>(s.queries);
    const float* sums = reinterpret_cast<const float*>(s.sums);
    for (int64_t sample = 0; sample < a.samples; ++sample) {
        for (int64_t head = 0; head < a.heads; ++head) {
            const float* query = a.qkv + sample * a.tokens * stride + head * a.channels;
            float* y = a.y + sample * a.tokens * width + head * a.channels;
            for (int64_t first = 0; first < a.tokens; first += kLanes) {
                const int64_t count = std::min(kLanes, a.tokens - first);
                for (int64_t lane = 0; lane < kLanes; ++lane) {  // lanes without a query repeat the last one
                    const float* q = query + (first + std::min(lane, count - 1)) * stride;
                    for (int64_t c = 0; c < a.channels; ++c) queries[c * kLanes + lane] = q[c] * a.scale;
                }
                scores(a, query + width, s);
                softmax(a.tokens, s);
                mix(a, query + 2 * width, s);
                for (int64_t lane = 0; lane < count; ++lane) {
                    float* out = y + (first + lane) * width;
                    for (int64_t c = 0; c < a.channels; ++c) out[c] = sums[c * kLanes + lane];
                }
            }
        }
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void norm_avx2(const Norm& n) { norm_rows(n); }
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) void norm_avx512(const Norm& n) { norm_rows(n); }
__attribute__((target("avx2"))) void attention_avx2(const Attention& a, Scratch& s) { attention_heads(a, s); }
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) void attention_avx512(const Attention& a, Scratch& s) {
    attention_heads(a, s);
}
#endif

void norm_any(int variant, const Norm& n) {
#if defined(__x86_64__)
    if (qdit::is_avx2(variant)) return norm_avx2(n);
    if (qdit::is_avx512(variant)) return norm_avx512(n);
#endif
    norm_rows(n);
}

void attention_any(int variant, const Attention& a, Scratch& s) {
#if defined(__x86_64__)
    if (qdit::is_avx2(variant)) return attention_avx2(a, s);
    if (qdit::is_avx512(variant)) return attention_avx512(a, s);
#endif
    attention_heads(a, s);
}

}  // namespace

// The most tokens and channels of a head that qdit_attention takes.
QDIT_EXPORT int64_t qdit_attention_limit(int of) { return of == 0 ? kMostTokens : kMostChannels; }

QDIT_EXPORT void qdit_norm_modulate(int variant, const float* x, int64_t samples, int64_t tokens, int64_t width,
                                    const float* shift, int64_t shift_stride, const float* scale, int64_t scale_stride,
                                    float epsilon, float* y) {
    norm_any(variant, Norm{samples, tokens, width, x, shift, scale, shift_stride, scale_stride, epsilon, y});
}

QDIT_EXPORT void qdit_attention(int variant, const float* qkv, int64_t samples, int64_t tokens, int64_t heads,
                                int64_t channels, float scale, float* y) {
    static thread_local Scratch scratch;
    attention_any(variant, Attention{samples, tokens, heads, channels, qkv, scale, y}, scratch);
}
