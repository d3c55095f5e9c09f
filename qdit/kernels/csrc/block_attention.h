// Attention of few tokens with quantized operands, and its gradients. Scores lie as [key][query]: no sum goes across
// lanes, and only q and the gradient of the output are transposed.
#pragma once
#include <algorithm>
#include <cmath>

#include "block.h"

namespace qdit {

constexpr int64_t kEight = 8;
constexpr int kAtOnce = 8;  // rows of a product whose sums are in registers

typedef float Eight __attribute__((vector_size(4 * kEight)));

constexpr int64_t whole(int64_t count, int64_t lanes) { return (count + lanes - 1) / lanes * lanes; }

// Tokens of a sample and channels of a head. Where the compiler knows them, loops become straight code.
struct Sizes {
    int64_t tokens, channels;
};

// Arrays of one head: [token][channel], channels in whole eights; scores [key][query], queries in whole lanes.
struct Head {
    alignas(64) float q[kMostTokens * kMostChannels], k[kMostTokens * kMostChannels], v[kMostTokens * kMostChannels];
    alignas(64) float of_y[kMostTokens * kMostChannels], raw[kMostTokens * kMostChannels], out[kMostTokens * kMostChannels];
    alignas(64) float turned[kMostTokens * kMostChannels], p[kMostTokens * kMostTokens], of_p[kMostTokens * kMostTokens];
};

QDIT_INLINE void copy(const float* from, int64_t channels, float* to) {
    const int64_t eights = channels / kEight * kEight;
    Eight v;
    for (int64_t c = 0; c < eights; c += kEight) {
        load(v, from + c);
        store(to + c, v);
    }
    for (int64_t c = eights; c < channels; ++c) to[c] = from[c];
}

// Rows of one head in memory, `stride` apart. Behind them zeros, in whole lanes, for `through_grid`.
QDIT_INLINE void take(const float* from, int64_t stride, int64_t tokens, int64_t channels, float* to) {
    const int64_t padded = whole(channels, kEight), end = whole(tokens * padded, kLanes);
    for (int64_t t = 0; t < tokens; ++t) {
        copy(from + t * stride, channels, to + t * padded);
        for (int64_t c = channels; c < padded; ++c) to[t * padded + c] = 0.f;
    }
    for (int64_t i = tokens * padded; i < end; ++i) to[i] = 0.f;
}

QDIT_INLINE void put(const float* from, int64_t tokens, int64_t channels, float* to, int64_t stride) {
    const int64_t padded = whole(channels, kEight);
    for (int64_t t = 0; t < tokens; ++t) copy(from + t * padded, channels, to + t * stride);
}

// [token][channel] -> [channel][token].
QDIT_INLINE void turn(const float* from, int64_t tokens, int64_t channels, float* to) {
    const int64_t padded = whole(channels, kEight), lanes = whole(tokens, kLanes);
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t t = 0; t < tokens; ++t) to[c * lanes + t] = from[t * padded + c];
        for (int64_t t = tokens; t < lanes; ++t) to[c * lanes + t] = 0.f;
    }
}

// Sums of kAtOnce rows of `product`; row o takes its factors from single + offsets(o).
template <class V, class Offset>
QDIT_INLINE void sums_of_rows(const float* in, const float* single, int64_t inner, int64_t sums, int64_t lanes,
                              const Offset& offset, V (&totals)[kAtOnce]) {
    V v;
    for (V& total : totals) total = V{};
    for (int64_t s = 0; s < sums; ++s) {
        load(v, in + s * lanes);
        for (int o = 0; o < kAtOnce; ++o) totals[o] = totals[o] + v * single[offset(o) + s * inner];
    }
}

// out[o][lane] = sum over s of in[s][lane] x single[o x outer + s x inner]. `in` and `out` have rows of `lanes` floats.
template <class V>
QDIT_INLINE void product(const float* in, const float* single, int64_t outer, int64_t inner, int64_t outs, int64_t sums,
                         int64_t lanes, float* out) {
    constexpr int64_t size = sizeof(V) / sizeof(float);
    V totals[kAtOnce];
    for (int64_t lane = 0; lane < lanes; lane += size) {
        int64_t first = 0;
        for (; first + kAtOnce <= outs; first += kAtOnce) {
            const auto offset = [outer](int o) { return o * outer; };
            sums_of_rows(in + lane, single + first * outer, inner, sums, lanes, offset, totals);
            for (int o = 0; o < kAtOnce; ++o) store(out + (first + o) * lanes + lane, totals[o]);
        }
        if (first == outs) continue;
        const int64_t last = outs - 1 - first;  // the rows behind it repeat it
        const auto offset = [outer, last](int o) { return std::min<int64_t>(o, last) * outer; };
        sums_of_rows(in + lane, single + first * outer, inner, sums, lanes, offset, totals);
        for (int64_t o = 0; o <= last; ++o) store(out + (first + o) * lanes + lane, totals[o]);
    }
}

QDIT_INLINE void softmax_of_lanes(int64_t tokens, int64_t lanes, float* p) {
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        float largest[kLanes], total[kLanes] = {};
        for (int i = 0; i < kLanes; ++i) largest[i] = p[lane + i];
        for (int64_t t = 1; t < tokens; ++t) {
            for (int i = 0; i < kLanes; ++i) {
                const float score = p[t * lanes + lane + i];
                largest[i] = score > largest[i] ? score : largest[i];
            }
        }
        for (int64_t t = 0; t < tokens; ++t) {
            float* row = p + t * lanes + lane;
            for (int i = 0; i < kLanes; ++i) row[i] = power_of_two((row[i] - largest[i]) * 1.44269504088896f);
            for (int i = 0; i < kLanes; ++i) total[i] = total[i] + row[i];
        }
        for (int i = 0; i < kLanes; ++i) total[i] = 1.0f / total[i];
        for (int64_t t = 0; t < tokens; ++t) {
            for (int i = 0; i < kLanes; ++i) p[t * lanes + lane + i] = p[t * lanes + lane + i] * total[i];
        }
    }
}

// Gradient of the scores from that of their softmax p, in place.
QDIT_INLINE void softmax_gradient(int64_t tokens, int64_t lanes, const float* p, float* gradient) {
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        Floats along = {}, weight, g;
        for (int64_t t = 0; t < tokens; ++t) {
            load(weight, p + t * lanes + lane);
            load(g, gradient + t * lanes + lane);
            along = along + weight * g;
        }
        for (int64_t t = 0; t < tokens; ++t) {
            load(weight, p + t * lanes + lane);
            load(g, gradient + t * lanes + lane);
            store(gradient + t * lanes + lane, weight * (g - along));
        }
    }
}

QDIT_INLINE void per_channel(const float* factor, bool divide, int64_t tokens, int64_t channels, float* x) {
    const int64_t padded = whole(channels, kEight);
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < channels; ++c) {
            x[t * padded + c] = divide ? x[t * padded + c] / factor[c] : x[t * padded + c] * factor[c];
        }
    }
}

// One operand of a head as the product takes it: behind its quantizer.
QDIT_INLINE void enter(const Block& b, const Sizes& z, int operand, const float* from, const float* factor, Head& s, float* to) {
    const Grid grid = grid_of(b, operand);
    if (grid.levels == 0.f) return take(from, 3 * b.width, z.tokens, z.channels, to);
    const int64_t padded = whole(z.channels, kEight);
    take(from, 3 * b.width, z.tokens, z.channels, s.raw);
    if (factor != nullptr) per_channel(factor, false, z.tokens, z.channels, s.raw);
    on_grid(grid, s.raw, whole(z.tokens * padded, kLanes), to);
    for (int64_t t = 0; t < z.tokens; ++t) {  // a zero point outside the levels moves zeros
        for (int64_t c = z.channels; c < padded; ++c) to[t * padded + c] = 0.f;
    }
    if (factor != nullptr) per_channel(factor, true, z.tokens, z.channels, to);
}

// The gradient of an operand, in place, from that of its quantized values. `rounded` is what `enter` gave.
QDIT_INLINE void leave(Block& b, const Sizes& z, int operand, const float* from, const float* factor, const float* rounded, Head& s,
                       float* gradient) {
    const Grid grid = grid_of(b, operand);
    if (grid.levels == 0.f) return;
    const int64_t count = whole(z.tokens * whole(z.channels, kEight), kLanes);
    take(from, 3 * b.width, z.tokens, z.channels, s.raw);
    for (int64_t i = z.tokens * whole(z.channels, kEight); i < count; ++i) gradient[i] = 0.f;
    if (factor == nullptr) {
        b.of_scales[operand] += through_grid(grid, s.raw, rounded, gradient, count);
        return;
    }
    per_channel(factor, false, z.tokens, z.channels, s.raw);
    per_channel(factor, true, z.tokens, z.channels, gradient);
    on_grid(grid, s.raw, count, s.turned);
    b.of_scales[operand] += through_grid(grid, s.raw, s.turned, gradient, count);
    per_channel(factor, false, z.tokens, z.channels, gradient);
}

QDIT_INLINE void forward_of_head(const Block& b, const Sizes& z, const float* qkv, const float* factor, float* p, float* y, Head& s) {
    const int64_t lanes = whole(z.tokens, kLanes), padded = whole(z.channels, kEight);
    enter(b, z, kQ, qkv, nullptr, s, s.q);
    for (int64_t i = 0; i < z.tokens * padded; ++i) s.q[i] = s.q[i] * b.attention_scale;
    enter(b, z, kK, qkv + b.width, nullptr, s, s.k);
    enter(b, z, kV, qkv + 2 * b.width, factor, s, s.v);
    turn(s.q, z.tokens, z.channels, s.turned);
    product<Floats>(s.turned, s.k, padded, 1, z.tokens, z.channels, lanes, p);
    softmax_of_lanes(z.tokens, lanes, p);
    const Grid grid = grid_of(b, kP);
    const float* weights = p;
    if (grid.levels != 0.f) {
        on_grid(grid, p, z.tokens * lanes, s.p);
        weights = s.p;
    }
    product<Eight>(s.v, weights, 1, lanes, z.tokens, z.tokens, padded, s.out);
    put(s.out, z.tokens, z.channels, y, b.width);
}

QDIT_INLINE void backward_of_head(Block& b, const Sizes& z, const float* qkv, const float* factor, const float* p, const float* of_y,
                                  float* of_qkv, Head& s) {
    const int64_t lanes = whole(z.tokens, kLanes), padded = whole(z.channels, kEight), stride = 3 * b.width;
    enter(b, z, kQ, qkv, nullptr, s, s.q);
    enter(b, z, kK, qkv + b.width, nullptr, s, s.k);
    enter(b, z, kV, qkv + 2 * b.width, factor, s, s.v);
    take(of_y, b.width, z.tokens, z.channels, s.of_y);
    const Grid grid = grid_of(b, kP);
    const float* weights = p;
    if (grid.levels != 0.f) {
        on_grid(grid, p, z.tokens * lanes, s.p);
        weights = s.p;
    }
    product<Eight>(s.of_y, weights, lanes, 1, z.tokens, z.tokens, padded, s.out);  // of v
    turn(s.of_y, z.tokens, z.channels, s.turned);
    product<Floats>(s.turned, s.v, padded, 1, z.tokens, z.channels, lanes, s.of_p);
    leave(b, z, kV, qkv + 2 * b.width, factor, s.v, s, s.out);
    put(s.out, z.tokens, z.channels, of_qkv + 2 * b.width, stride);
    if (grid.levels != 0.f) b.of_scales[kP] += through_grid(grid, p, s.p, s.of_p, z.tokens * lanes);
    softmax_gradient(z.tokens, lanes, p, s.of_p);
    for (int64_t i = 0; i < z.tokens * lanes; ++i) s.of_p[i] = s.of_p[i] * b.attention_scale;
    product<Eight>(s.k, s.of_p, 1, lanes, z.tokens, z.tokens, padded, s.out);  // of q
    leave(b, z, kQ, qkv, nullptr, s.q, s, s.out);
    put(s.out, z.tokens, z.channels, of_qkv, stride);
    product<Eight>(s.q, s.of_p, lanes, 1, z.tokens, z.tokens, padded, s.out);  // of k
    leave(b, z, kK, qkv + b.width, nullptr, s.k, s, s.out);
    put(s.out, z.tokens, z.channels, of_qkv + b.width, stride);
}

template <bool kForward>
QDIT_INLINE void all_heads(Block& b, const Sizes& z, Head& s) {
    const int64_t scores = z.tokens * whole(z.tokens, kLanes);
    for (int64_t sample = 0; sample < b.samples; ++sample) {
        const int64_t row = sample * z.tokens;
        for (int64_t head = 0; head < b.heads; ++head) {
            const int64_t offset = head * z.channels, at = row * b.width + offset, at_qkv = row * 3 * b.width + offset;
            const float *qkv = b.output[kQkv] + at_qkv, *factor = b.factor == nullptr ? nullptr : b.factor + offset;
            float* p = b.weights + (sample * b.heads + head) * scores;
            if (kForward) {
                forward_of_head(b, z, qkv, factor, p, b.entered[kProjection] + at, s);
            } else {
                backward_of_head(b, z, qkv, factor, p, b.of_entered[kProjection] + at, b.of_output[kQkv] + at_qkv, s);
            }
        }
    }
}

// The sizes of the mini profile's DiT are known to the compiler: half of the time.
template <bool kForward>
QDIT_INLINE void attention(Block& b, Head& s) {
    if (b.tokens == 16 && b.channels == 24) return all_heads<kForward>(b, {16, 24}, s);
    all_heads<kForward>(b, {b.tokens, b.channels}, s);
}

}  // namespace qdit
