// Learning of one unit: a pass over the weights of a site does soft rounding, its gradient, the regularizer's and Adam;
// learned scales and tanh-GELU with their gradients. Only +, −, ×, ÷ and square roots in one order: all variants give the same bits.
#include <cmath>
#include <cstring>

#include "elementary.h"

namespace qdit {
namespace {

constexpr int kBlock = 64;  // elements of a block, whose loops have a fixed length
constexpr float kStretch = 1.2f, kShift = -0.1f;  // zeta - gamma, gamma

// A step's numbers; the regularizer is off where `pull` is 0.
struct Step {
    float power, pull;  // exponent - 1; 2 x exponent x strength
    float rate, root;  // rate / (1 - beta1^t); 1 / sqrt(1 - beta2^t)
};

QDIT_INLINE float clamped(float stretched) {
    stretched = stretched < 0.f ? 0.f : stretched;
    return stretched > 1.f ? 1.f : stretched;
}

struct Block {
    const float *gradient, *base, *span;
    float *alpha, *mean, *square, *weight;
};

// Returns how many of the block's values are from 0 to 1 before they are clamped.
QDIT_INLINE int32_t step_of_block(const Block& b, const Step& step) {
    const float* __restrict gradient = b.gradient;
    const float* __restrict base = b.base;
    const float* __restrict span = b.span;
    float* __restrict alpha = b.alpha;
    float* __restrict mean = b.mean;
    float* __restrict square = b.square;
    float* __restrict weight = b.weight;
    const float power = step.power, pull = step.pull, rate = step.rate, root = step.root;
    float sigmoids[kBlock], penalties[kBlock];  // several short loops: compilers give up on one long one
    for (int i = 0; i < kBlock; ++i) sigmoids[i] = sigmoid_of(alpha[i]);
    for (int i = 0; i < kBlock; ++i) penalties[i] = 0.f;
    for (int i = 0; pull != 0.f && i < kBlock; ++i) {
        const float distance = clamped(sigmoids[i] * kStretch + kShift) * 2.f - 1.f;
        const float size = pull * power_of_two(power * logarithm_of(std::fabs(distance)));
        penalties[i] = distance < 0.f ? -size : size;
    }
    for (int i = 0; i < kBlock; ++i) {
        const float sigmoid = sigmoids[i], stretched = sigmoid * kStretch + kShift;
        float slope = (sigmoid - sigmoid * sigmoid) * kStretch;
        slope = stretched > 0.f ? slope : 0.f;
        slope = stretched < 1.f ? slope : 0.f;
        const float of_alpha = (gradient[i] * span[i] - penalties[i]) * slope;
        const float new_mean = mean[i] + (of_alpha - mean[i]) * 0.1f;
        const float new_square = square[i] * 0.999f + of_alpha * of_alpha * 0.001f;
        mean[i] = new_mean;
        square[i] = new_square;
        alpha[i] = alpha[i] - rate * new_mean / (std::sqrt(new_square) * root + 1e-8f);
    }
    int32_t open = 0;
    for (int i = 0; i < kBlock; ++i) {
        const float stretched = sigmoid_of(alpha[i]) * kStretch + kShift, up = clamped(stretched);
        open += stretched == up ? 1 : 0;
        weight[i] = base[i] + up * span[i];
    }
    return open;
}

// All arrays but `gradient` and `weight` hold `count` elements, which are those at `index` of these two.
struct Site {
    int64_t count;
    const int32_t* index;
    const float *gradient, *base, *span;
    float *alpha, *mean, *square, *weight;
};

QDIT_INLINE int64_t step_of_site(const Site& s, const Step& step) {
    int64_t open = 0;
    float gradient[kBlock], weight[kBlock], copies[5][kBlock];
    for (int64_t begin = 0; begin < s.count; begin += kBlock) {
        const int n = s.count - begin < kBlock ? static_cast<int>(s.count - begin) : kBlock;
        const int32_t* index = s.index + begin;
        if (n == kBlock && index[kBlock - 1] - index[0] == kBlock - 1) {  // neighbours: nothing has to be gathered
            open += step_of_block({s.gradient + index[0], s.base + begin, s.span + begin, s.alpha + begin, s.mean + begin,
                                   s.square + begin, s.weight + index[0]},
                                  step);
            continue;
        }
        for (int i = 0; i < n; ++i) gradient[i] = s.gradient[index[i]];
        Block block{gradient, s.base + begin, s.span + begin, s.alpha + begin, s.mean + begin, s.square + begin, weight};
        if (n == kBlock) {
            open += step_of_block(block, step);
        } else {  // the last one: filled up with values that have decided
            const float* from[5] = {block.base, block.span, block.alpha, block.mean, block.square};
            for (int part = 0; part < 5; ++part) {
                for (int i = 0; i < kBlock; ++i) copies[part][i] = i < n ? from[part][i] : part == 2 ? 9.f : 0.f;
            }
            for (int i = n; i < kBlock; ++i) gradient[i] = 0.f;
            open += step_of_block({gradient, copies[0], copies[1], copies[2], copies[3], copies[4], weight}, step);
            std::memcpy(block.alpha, copies[2], n * sizeof(float));
            std::memcpy(block.mean, copies[3], n * sizeof(float));
            std::memcpy(block.square, copies[4], n * sizeof(float));
        }
        for (int i = 0; i < n; ++i) s.weight[index[i]] = weight[i];
    }
    return open;
}

// Keeps the elements that are still between 0 and 1, in their order; the others' alpha goes to its place in `all`.
int64_t keep_open(int64_t count, int32_t* index, float* base, float* span, float* alpha, float* mean, float* square,
                  float* all) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
        const float stretched = sigmoid_of(alpha[i]) * kStretch + kShift;
        all[index[i]] = alpha[i];
        if (!(stretched <= 0.f || stretched >= 1.f)) {  // NaN stays
            index[kept] = index[i];
            base[kept] = base[i];
            span[kept] = span[i];
            alpha[kept] = alpha[i];
            mean[kept] = mean[i];
            square[kept] = square[i];
            ++kept;
        }
    }
    return kept;
}

// Gradients pass where codes are not clamped. Returns the sum of gradient x (value - passed x), in lanes.
QDIT_INLINE double through_grid(const Grid& grid, const float* __restrict x, const float* __restrict gradient,
                                int64_t count, float* __restrict passed) {
    const float scale = grid.scale, zero = grid.zero, levels = grid.levels;
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += 1024) {
        float lanes[16] = {};
        const int64_t end = begin + 1024 < count ? begin + 1024 : count;
        int64_t at = begin;
        for (; at + 16 <= end; at += 16) {
            for (int i = 0; i < 16; ++i) {
                const float code = nearest(x[at + i] / scale) + zero, g = gradient[at + i];
                float bound = code < 0.f ? 0.f : code;
                bound = bound > levels ? levels : bound;
                const float through = bound == code ? g : 0.f;
                passed[at + i] = through;
                lanes[i] += g * ((bound - zero) * scale) - through * x[at + i];
            }
        }
        for (; at < end; ++at) {
            const float code = nearest(x[at] / scale) + zero, g = gradient[at];
            float bound = code < 0.f ? 0.f : code;
            bound = bound > levels ? levels : bound;
            const float through = bound == code ? g : 0.f;
            passed[at] = through;
            lanes[at - end + 16] += g * ((bound - zero) * scale) - through * x[at];
        }
        for (float lane : lanes) total += lane;
    }
    return total;
}

#if defined(__x86_64__)
QDIT_AVX2 int64_t step_avx2(const Site& site, const Step& step) { return step_of_site(site, step); }
QDIT_AVX512 int64_t step_avx512(const Site& site, const Step& step) { return step_of_site(site, step); }
QDIT_AVX2 void grid_avx2(const Grid& g, const float* x, int64_t n, float* y) { on_grid(g, x, n, y); }
QDIT_AVX512 void grid_avx512(const Grid& g, const float* x, int64_t n, float* y) { on_grid(g, x, n, y); }
QDIT_AVX2 double through_avx2(const Grid& g, const float* x, const float* gradient, int64_t n, float* passed) {
    return through_grid(g, x, gradient, n, passed);
}
QDIT_AVX512 double through_avx512(const Grid& g, const float* x, const float* gradient, int64_t n, float* passed) {
    return through_grid(g, x, gradient, n, passed);
}
QDIT_AVX2 void gelu_avx2(const float* x, int64_t count, float* y, float* slope) { gelu_of(x, count, y, slope); }
QDIT_AVX512 void gelu_avx512(const float* x, int64_t count, float* y, float* slope) { gelu_of(x, count, y, slope); }
#endif

}  // namespace
}  // namespace qdit

// One step of a site; its result is the number of values that have not been clamped yet. `variant` is that of kernel.h's
// list: 1 for AVX2, 2 for AVX-512; every other one takes the loop as the compiler makes it.
QDIT_EXPORT int64_t qdit_rounding_step(int variant, int64_t count, const int32_t* index, const float* gradient,
                                       const float* base, const float* span, float* alpha, float* mean, float* square,
                                       float* weight, float power, float pull, float rate, float root) {
    const qdit::Site site{count, index, gradient, base, span, alpha, mean, square, weight};
    const qdit::Step step{power, pull, rate, root};
#if defined(__x86_64__)
    if (qdit::is_avx512(variant)) return qdit::step_avx512(site, step);
    if (qdit::is_avx2(variant)) return qdit::step_avx2(site, step);
#endif
    return qdit::step_of_site(site, step);
}

// Drops the elements of a site that have decided (their gradient is 0 for good); returns how many are left.
QDIT_EXPORT int64_t qdit_rounding_keep_open(int64_t count, int32_t* index, float* base, float* span, float* alpha,
                                            float* mean, float* square, float* all) {
    return qdit::keep_open(count, index, base, span, alpha, mean, square, all);
}

// y = x quantized and dequantized with one scale.
QDIT_EXPORT void qdit_on_grid(int variant, int64_t count, const float* x, float scale, float zero, float levels,
                              float* y) {
    const qdit::Grid grid{scale, zero, levels};
#if defined(__x86_64__)
    if (qdit::is_avx512(variant)) return qdit::grid_avx512(grid, x, count, y);
    if (qdit::is_avx2(variant)) return qdit::grid_avx2(grid, x, count, y);
#endif
    qdit::on_grid(grid, x, count, y);
}

// The gradient that passes to x; returns scale x the gradient of the scale.
QDIT_EXPORT double qdit_through_grid(int variant, int64_t count, const float* x, const float* gradient, float scale,
                                     float zero, float levels, float* passed) {
    const qdit::Grid grid{scale, zero, levels};
#if defined(__x86_64__)
    if (qdit::is_avx512(variant)) return qdit::through_avx512(grid, x, gradient, count, passed);
    if (qdit::is_avx2(variant)) return qdit::through_avx2(grid, x, gradient, count, passed);
#endif
    return qdit::through_grid(grid, x, gradient, count, passed);
}

// y = GELU(x) by the tanh form, and its slope.
QDIT_EXPORT void qdit_gelu(int variant, int64_t count, const float* x, float* y, float* slope) {
#if defined(__x86_64__)
    if (qdit::is_avx512(variant)) return qdit::gelu_avx512(x, count, y, slope);
    if (qdit::is_avx2(variant)) return qdit::gelu_avx2(x, count, y, slope);
#endif
    qdit::gelu_of(x, count, y, slope);
}
