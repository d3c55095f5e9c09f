// Attention of few tokens with quantized operands, and its gradients, for learning a block. Sums have a fixed order in 16 lanes and nothing is contracted, so every variant gives the same bits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "elementary.h"
#include "processor.h"

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMostTokens = 64;
constexpr int64_t kMostChannels = 128;
constexpr int kBlock = 8;  // rows of a product whose sums are in registers

typedef float Floats __attribute__((vector_size(4 * kLanes)));

// By reference: a function that takes or returns vectors has another ABI on each target.
QDIT_INLINE void load(Floats& to, const float* from) { std::memcpy(&to, from, sizeof to); }
QDIT_INLINE void store(float* to, const Floats& from) { std::memcpy(to, &from, sizeof from); }

// Quantizers of the operands q, k, p (softmax output) and v; `levels` 0 means none. V is multiplied by `factor` (heads,
// channels) before its quantizer and divided after it; null means 1.
struct Operands {
    qdit::Grid grids[4];
    const float* factor;
};
enum Operand { kQ, kK, kP, kV };

struct Attention {
    int64_t samples, tokens, heads, channels;  // channels of one head
    const float* qkv;                          // (samples, tokens, 3, heads, channels)
    Operands operands;
    float scale;
    float* weights;         // (samples, heads, keys, queries), queries padded to whole lanes: softmax before its quantizer
    float* y;               // (samples, tokens, heads, channels)
    const float* gradient;  // of y
    float* of_qkv;
    double* of_scales;      // of the four grids, in their order
};

constexpr int64_t kTable = kMostChannels * kMostTokens;

// Arrays of one head: [channel][token] or [token][token], tokens padded to whole lanes with zeros.
struct Scratch {
    float q[kTable], k[kTable], v[kTable], y[kTable], raw[kTable], out[kTable];
    float p[kMostTokens * kMostTokens], of_p[kMostTokens * kMostTokens], turned[kMostTokens * kMostTokens];
};

QDIT_INLINE void on_grid(const qdit::Grid& grid, const float* x, int64_t count, float* y) {
    if (grid.levels == 0.f) {
        if (x != y) std::memcpy(y, x, count * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        float code = qdit::nearest(x[i] / grid.scale) + grid.zero;
        code = code < 0.f ? 0.f : code;
        code = code > grid.levels ? grid.levels : code;
        y[i] = (code - grid.zero) * grid.scale;
    }
}

// The gradient that passes the grid, in place; returns scale x the gradient of the scale. Counts are whole lanes.
QDIT_INLINE double through_grid(const qdit::Grid& grid, const float* x, float* gradient, int64_t count) {
    if (grid.levels == 0.f) return 0;
    float lanes[kLanes] = {};
    for (int64_t at = 0; at < count; at += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
            const float code = qdit::nearest(x[at + i] / grid.scale) + grid.zero, g = gradient[at + i];
            float bound = code < 0.f ? 0.f : code;
            bound = bound > grid.levels ? grid.levels : bound;
            const float through = bound == code ? g : 0.f;
            gradient[at + i] = through;
            lanes[i] += g * ((bound - grid.zero) * grid.scale) - through * x[at + i];
        }
    }
    double total = 0;
    for (float lane : lanes) total += lane;
    return total;
}

// [token][channel] with a stride -> [channel][token], times `factor` of the channel.
QDIT_INLINE void gather(const Attention& a, const float* from, int64_t stride, int64_t padded, const float* factor,
                        float* to) {
    for (int64_t c = 0; c < a.channels; ++c) {
        const float times = factor == nullptr ? 1.0f : factor[c];
        for (int64_t t = 0; t < a.tokens; ++t) to[c * padded + t] = from[t * stride + c] * times;
        for (int64_t t = a.tokens; t < padded; ++t) to[c * padded + t] = 0.f;
    }
}

QDIT_INLINE void scatter(const Attention& a, const float* from, int64_t padded, float times, const float* factor,
                         float* to, int64_t stride) {
    for (int64_t c = 0; c < a.channels; ++c) {
        const float of_channel = factor == nullptr ? times : times * factor[c];
        for (int64_t t = 0; t < a.tokens; ++t) to[t * stride + c] = from[c * padded + t] * of_channel;
    }
}

// out[o][lane] = sum over s of in[s][lane] * single[o * outer + s * inner], for 0 <= o < outs and 0 <= s < sums.
QDIT_INLINE void product(const float* in, const float* single, int64_t outer, int64_t inner, int64_t outs, int64_t sums,
                         int64_t padded, float* out) {
    for (int64_t lane = 0; lane < padded; lane += kLanes) {
        for (int64_t first = 0; first < outs; first += kBlock) {
            const float* singles[kBlock];
            for (int o = 0; o < kBlock; ++o) singles[o] = single + std::min(first + o, outs - 1) * outer;
            Floats totals[kBlock] = {}, v;
            for (int64_t s = 0; s < sums; ++s) {
                load(v, in + s * padded + lane);
                for (int o = 0; o < kBlock; ++o) totals[o] = totals[o] + v * singles[o][s * inner];
            }
            for (int64_t o = 0; o < kBlock && first + o < outs; ++o) store(out + (first + o) * padded + lane, totals[o]);
        }
    }
}

QDIT_INLINE void softmax(int64_t tokens, int64_t padded, float* p) {
    for (int64_t lane = 0; lane < padded; lane += kLanes) {
        float largest[kLanes], total[kLanes] = {};
        for (int i = 0; i < kLanes; ++i) largest[i] = p[lane + i];
        for (int64_t t = 1; t < tokens; ++t) {
            for (int i = 0; i < kLanes; ++i) {
                const float score = p[t * padded + lane + i];
                largest[i] = score > largest[i] ? score : largest[i];
            }
        }
        for (int64_t t = 0; t < tokens; ++t) {
            float* row = p + t * padded + lane;
            for (int i = 0; i < kLanes; ++i) row[i] = qdit::power_of_two((row[i] - largest[i]) * 1.44269504088896f);
            for (int i = 0; i < kLanes; ++i) total[i] = total[i] + row[i];
        }
        for (int i = 0; i < kLanes; ++i) total[i] = 1.0f / total[i];
        for (int64_t t = 0; t < tokens; ++t) {
            for (int i = 0; i < kLanes; ++i) p[t * padded + lane + i] = p[t * padded + lane + i] * total[i];
        }
    }
}

// Gradient of the scores from that of their softmax p, in place.
QDIT_INLINE void softmax_gradient(int64_t tokens, int64_t padded, const float* p, float* gradient) {
    for (int64_t lane = 0; lane < padded; lane += kLanes) {
        float along[kLanes] = {};
        for (int64_t t = 0; t < tokens; ++t) {
            for (int i = 0; i < kLanes; ++i) along[i] = along[i] + p[t * padded + lane + i] * gradient[t * padded + lane + i];
        }
        for (int64_t t = 0; t < tokens; ++t) {
            for (int i = 0; i < kLanes; ++i) {
                const int64_t at = t * padded + lane + i;
                gradient[at] = p[at] * (gradient[at] - along[i]);
            }
        }
    }
}

QDIT_INLINE void turn(int64_t tokens, int64_t padded, const float* from, float* to) {
    for (int64_t row = 0; row < tokens; ++row) {
        for (int64_t column = 0; column < tokens; ++column) to[row * padded + column] = from[column * padded + row];
        for (int64_t column = tokens; column < padded; ++column) to[row * padded + column] = 0.f;
    }
}

QDIT_INLINE int64_t whole_lanes(int64_t tokens) { return (tokens + kLanes - 1) / kLanes * kLanes; }

struct Head {
    const float *q, *k, *v, *factor;
    int64_t at;  // of the head among all heads of all samples
};

// q, k and v of a head behind their quantizers; q times the scale of the scores.
QDIT_INLINE void enter(const Attention& a, const Head& h, int64_t padded, Scratch& s) {
    const int64_t stride = 3 * a.heads * a.channels, count = a.channels * padded;
    const qdit::Grid* grids = a.operands.grids;
    gather(a, h.q, stride, padded, nullptr, s.q);
    on_grid(grids[kQ], s.q, count, s.q);
    for (int64_t i = 0; i < count; ++i) s.q[i] = s.q[i] * a.scale;
    gather(a, h.k, stride, padded, nullptr, s.k);
    on_grid(grids[kK], s.k, count, s.k);
    gather(a, h.v, stride, padded, h.factor, s.v);
    on_grid(grids[kV], s.v, count, s.v);
    for (int64_t c = 0; h.factor != nullptr && c < a.channels; ++c) {
        for (int64_t t = 0; t < padded; ++t) s.v[c * padded + t] = s.v[c * padded + t] / h.factor[c];
    }
}

QDIT_INLINE void forward_of_head(const Attention& a, const Head& h, int64_t padded, Scratch& s) {
    float* p = a.weights + h.at * a.tokens * padded;
    enter(a, h, padded, s);
    product(s.q, s.k, 1, padded, a.tokens, a.channels, padded, p);
    softmax(a.tokens, padded, p);
    on_grid(a.operands.grids[kP], p, a.tokens * padded, s.p);
    product(s.p, s.v, padded, 1, a.channels, a.tokens, padded, s.out);
}

QDIT_INLINE void backward_of_head(const Attention& a, const Head& h, const float* gradient, float* to, int64_t padded,
                                  Scratch& s) {
    const float* p = a.weights + h.at * a.tokens * padded;
    const int64_t width = a.heads * a.channels, stride = 3 * width, count = a.channels * padded;
    const qdit::Grid* grids = a.operands.grids;
    enter(a, h, padded, s);
    gather(a, gradient, width, padded, nullptr, s.y);
    on_grid(grids[kP], p, a.tokens * padded, s.p);
    turn(a.tokens, padded, s.p, s.turned);
    product(s.turned, s.y, padded, 1, a.channels, a.tokens, padded, s.out);  // of v
    if (h.factor != nullptr) {
        for (int64_t c = 0; c < a.channels; ++c) {
            for (int64_t t = 0; t < padded; ++t) s.out[c * padded + t] = s.out[c * padded + t] / h.factor[c];
        }
    }
    gather(a, h.v, stride, padded, h.factor, s.raw);
    a.of_scales[kV] += through_grid(grids[kV], s.raw, s.out, count);
    scatter(a, s.out, padded, 1.0f, h.factor, to + 2 * width, stride);
    product(s.y, s.v, 1, padded, a.tokens, a.channels, padded, s.of_p);
    a.of_scales[kP] += through_grid(grids[kP], p, s.of_p, a.tokens * padded);
    softmax_gradient(a.tokens, padded, p, s.of_p);
    product(s.of_p, s.k, padded, 1, a.channels, a.tokens, padded, s.out);  // of q
    for (int64_t i = 0; i < count; ++i) s.out[i] = s.out[i] * a.scale;
    gather(a, h.q, stride, padded, nullptr, s.raw);
    a.of_scales[kQ] += through_grid(grids[kQ], s.raw, s.out, count);
    scatter(a, s.out, padded, 1.0f, nullptr, to, stride);
    turn(a.tokens, padded, s.of_p, s.turned);
    product(s.turned, s.q, padded, 1, a.channels, a.tokens, padded, s.out);  // of k
    gather(a, h.k, stride, padded, nullptr, s.raw);
    a.of_scales[kK] += through_grid(grids[kK], s.raw, s.out, count);
    scatter(a, s.out, padded, 1.0f, nullptr, to + width, stride);
}

QDIT_INLINE void all_heads(const Attention& a, Scratch& s) {
    const int64_t width = a.heads * a.channels, stride = 3 * width, padded = whole_lanes(a.tokens);
    for (int64_t sample = 0; sample < a.samples; ++sample) {
        for (int64_t head = 0; head < a.heads; ++head) {
            const int64_t offset = head * a.channels;
            const float* q = a.qkv + sample * a.tokens * stride + offset;
            const float* factor = a.operands.factor == nullptr ? nullptr : a.operands.factor + offset;
            const Head h{q, q + width, q + 2 * width, factor, sample * a.heads + head};
            const int64_t at = sample * a.tokens * width + offset;
            if (a.gradient == nullptr) {
                forward_of_head(a, h, padded, s);
                scatter(a, s.out, padded, 1.0f, nullptr, a.y + at, width);
            } else {
                backward_of_head(a, h, a.gradient + at, a.of_qkv + sample * a.tokens * stride + offset, padded, s);
            }
        }
    }
}

#if defined(__x86_64__)
QDIT_AVX2 void attention_avx2(const Attention& a, Scratch& s) { all_heads(a, s); }
QDIT_AVX512 void attention_avx512(const Attention& a, Scratch& s) { all_heads(a, s); }
#endif

void attention_any(int variant, const Attention& a) {
    static thread_local Scratch scratch;
#if defined(__x86_64__)
    if (qdit::is_avx2(variant)) return attention_avx2(a, scratch);
    if (variant == qdit::kAvx512Vnni) return attention_avx512(a, scratch);
#endif
    all_heads(a, scratch);
}

Operands operands_of(const float* grids, const float* factor) {
    Operands operands{{}, factor};
    for (int i = 0; i < 4; ++i) operands.grids[i] = {grids[3 * i], grids[3 * i + 1], grids[3 * i + 2]};
    return operands;
}

}  // namespace

// `grids`: (scale, zero point, levels) of q, k, p and v. `weights` has room for samples x heads x tokens x padded tokens.
QDIT_EXPORT void qdit_learning_attention(int variant, const float* qkv, int64_t samples, int64_t tokens, int64_t heads,
                                         int64_t channels, float scale, const float* grids, const float* factor,
                                         float* weights, float* y) {
    const Attention a{samples, tokens, heads, channels, qkv, operands_of(grids, factor), scale, weights, y, nullptr, nullptr,
                      nullptr};
    attention_any(variant, a);
}

// `of_scales` receives scale x the gradient of each of the four scales.
QDIT_EXPORT void qdit_attention_gradients(int variant, const float* qkv, int64_t samples, int64_t tokens, int64_t heads,
                                          int64_t channels, float scale, const float* grids, const float* factor,
                                          float* weights, const float* gradient, float* of_qkv, double* of_scales) {
    const Attention a{samples, tokens, heads, channels, qkv, operands_of(grids, factor), scale, weights, nullptr, gradient,
                      of_qkv, of_scales};
    std::fill(of_scales, of_scales + 4, 0.0);
    attention_any(variant, a);
}
