// What a DiT block in training computes between its matrix products, forward and backward, in few passes over memory.
// Sums have a fixed order in 16 lanes and nothing is contracted, so every variant of a processor gives the same bits.
#include "block.h"

#include <cmath>

#include "block_attention.h"
#include "processor.h"

namespace qdit {
namespace {

QDIT_INLINE void enter_linear(const Block& b, Linear linear, int64_t row, int64_t width) {
    const Grid grid = grid_of(b, linear);
    if (grid.levels != 0.f) on_grid(grid, b.entered[linear] + row * width, width, b.rounded[linear] + row * width);
}

// The gradient of a linear's input, in place, from that of its quantized input.
QDIT_INLINE void leave_linear(Block& b, Linear linear, int64_t row, int64_t width) {
    const Grid grid = grid_of(b, linear);
    if (grid.levels == 0.f) return;
    const int64_t at = row * width;
    b.of_scales[linear] +=
        through_grid(grid, b.entered[linear] + at, b.rounded[linear] + at, b.of_entered[linear] + at, width);
}

// y = (x - mean) / deviation x (1 + scale) + shift.
QDIT_INLINE void norm_row(const Block& b, const float* x, const float* shift, const float* scale, float* y,
                          float* statistics) {
    Floats sums = {}, squares = {}, v, factor, offset;
    for (int64_t i = 0; i < b.width; i += kLanes) {
        load(v, x + i);
        sums = sums + v;
    }
    const float mean = sum_of(sums) / static_cast<float>(b.width);
    for (int64_t i = 0; i < b.width; i += kLanes) {
        load(v, x + i);
        v = v - mean;
        squares = squares + v * v;
    }
    const float inverse = 1.0f / std::sqrt(sum_of(squares) / static_cast<float>(b.width) + b.epsilon);
    for (int64_t i = 0; i < b.width; i += kLanes) {
        load(v, x + i);
        load(factor, scale + i);
        load(offset, shift + i);
        store(y + i, (v - mean) * inverse * (factor + 1.0f) + offset);
    }
    statistics[0] = mean;
    statistics[1] = inverse;
}

// The outputs of the products have no bias yet.
QDIT_INLINE void add_bias(const Block& b, Linear linear, int64_t row, int64_t width) {
    const float* __restrict bias = b.bias[linear];
    float* __restrict output = b.output[linear] + row * width;
    for (int64_t i = 0; i < width; ++i) output[i] = output[i] + bias[i];
}

// sums = x + gate x y
QDIT_INLINE void gated_sum(const float* __restrict x, const float* __restrict gate, const float* __restrict y, int64_t count,
                           float* __restrict sums) {
    for (int64_t i = 0; i < count; ++i) sums[i] = x[i] + gate[i] * y[i];
}

QDIT_INLINE void products(const float* __restrict a, const float* __restrict b, int64_t count, float* __restrict out) {
    for (int64_t i = 0; i < count; ++i) out[i] = a[i] * b[i];
}

QDIT_INLINE void add_products(const float* __restrict a, const float* __restrict b, int64_t count, float* __restrict sums) {
    for (int64_t i = 0; i < count; ++i) sums[i] = sums[i] + a[i] * b[i];
}

// Adds the gradients of shift and scale from those of the norm's output.
QDIT_INLINE void add_shift_and_scale(const float* __restrict x, const float* __restrict g, const float* statistics,
                                     int64_t count, float* __restrict of_shift, float* __restrict of_scale) {
    const float mean = statistics[0], inverse = statistics[1];
    for (int64_t i = 0; i < count; ++i) of_shift[i] = of_shift[i] + g[i];
    for (int64_t i = 0; i < count; ++i) of_scale[i] = of_scale[i] + g[i] * ((x[i] - mean) * inverse);
}

// Adds the gradient of the norm's input to `of_x`.
QDIT_INLINE void add_norm_gradient(const Block& b, const float* x, const float* g, const float* scale,
                                   const float* statistics, float* of_x) {
    const float mean = statistics[0], inverse = statistics[1];
    Floats plain = {}, along = {}, v, h, factor;  // sums of h and of h x normed, where h is the gradient of normed
    for (int64_t i = 0; i < b.width; i += kLanes) {
        load(v, x + i);
        load(h, g + i);
        load(factor, scale + i);
        h = h * (factor + 1.0f);
        plain = plain + h;
        along = along + h * ((v - mean) * inverse);
    }
    const float level = sum_of(plain) / static_cast<float>(b.width), slope = sum_of(along) / static_cast<float>(b.width);
    Floats total;
    for (int64_t i = 0; i < b.width; i += kLanes) {
        load(v, x + i);
        load(h, g + i);
        load(factor, scale + i);
        load(total, of_x + i);
        store(of_x + i, total + inverse * (h * (factor + 1.0f) - level - (v - mean) * inverse * slope));
    }
}

QDIT_INLINE const float* input_row(const Block& b, int64_t sample, int64_t token) {
    return b.x + (b.chosen[sample] * b.tokens + token) * b.width;
}

QDIT_INLINE float* sums_of(const Block& b, int64_t sample, Modulation which) {
    return b.of_modulation + (sample * kModulations + which) * b.width;
}

QDIT_INLINE void zero_sums(const Block& b, int64_t sample, std::initializer_list<Modulation> which) {
    for (Modulation of : which) std::memset(sums_of(b, sample, of), 0, b.width * sizeof(float));
}

QDIT_INLINE void first_norm(Block& b) {
    for (int64_t sample = 0, row = 0; sample < b.samples; ++sample) {
        const float *shift = modulation_of(b, sample, kShift1), *scale = modulation_of(b, sample, kScale1);
        for (int64_t token = 0; token < b.tokens; ++token, ++row) {
            norm_row(b, input_row(b, sample, token), shift, scale, b.entered[kQkv] + row * b.width, b.statistics + 2 * row);
            enter_linear(b, kQkv, row, b.width);
        }
    }
}

// middle = x + gate1 x projection; then the second norm.
QDIT_INLINE void second_norm(Block& b) {
    float* statistics = b.statistics + 2 * b.samples * b.tokens;
    for (int64_t sample = 0, row = 0; sample < b.samples; ++sample) {
        const float *shift = modulation_of(b, sample, kShift2), *scale = modulation_of(b, sample, kScale2);
        const float* gate = modulation_of(b, sample, kGate1);
        for (int64_t token = 0; token < b.tokens; ++token, ++row) {
            float* middle = b.middle + row * b.width;
            add_bias(b, kProjection, row, b.width);
            gated_sum(input_row(b, sample, token), gate, b.output[kProjection] + row * b.width, b.width, middle);
            norm_row(b, middle, shift, scale, b.entered[kFc1] + row * b.width, statistics + 2 * row);
            enter_linear(b, kFc1, row, b.width);
        }
    }
}

QDIT_INLINE void gelu_forward(Block& b) {
    for (int64_t row = 0; row < b.samples * b.tokens; ++row) {
        const int64_t at = row * b.hidden;
        add_bias(b, kFc1, row, b.hidden);
        gelu_of(b.output[kFc1] + at, b.hidden, b.entered[kFc2] + at, b.slope + at);
        enter_linear(b, kFc2, row, b.hidden);
    }
}

QDIT_INLINE void gelu_backward(Block& b) {
    for (int64_t row = 0; row < b.samples * b.tokens; ++row) {
        const int64_t at = row * b.hidden;
        leave_linear(b, kFc2, row, b.hidden);
        const float* __restrict slope = b.slope + at;
        float* __restrict gradient = b.of_entered[kFc2] + at;  // the same memory as of_output[kFc1]
        for (int64_t i = 0; i < b.hidden; ++i) gradient[i] = gradient[i] * slope[i];
    }
}

// Sum of |d|^power of differences d; its gradient times factor / power takes their place.
QDIT_INLINE float error_of_row(float* d, int64_t count, float power, float factor) {
    float lanes[kLanes] = {};
    for (int64_t at = 0; at < count; at += kLanes) {
        float* __restrict row = d + at;
        if (power == 2.f) {
            for (int i = 0; i < kLanes; ++i) {
                lanes[i] = lanes[i] + row[i] * row[i];
                row[i] = row[i] * factor;
            }
        } else {
            for (int i = 0; i < kLanes; ++i) {
                const float size = std::fabs(row[i]), logarithm = logarithm_of(size);
                const float steep = size > 0.f ? power_of_two((power - 1.f) * logarithm) : 0.f;
                lanes[i] = lanes[i] + steep * size;
                row[i] = row[i] < 0.f ? -(steep * factor) : steep * factor;
            }
        }
    }
    Floats total;
    load(total, lanes);
    return sum_of(total);
}

// y = middle + gate2 x output of fc2; the error of y, its gradient, and that of the output of fc2.
QDIT_INLINE void loss(Block& b) {
    const float count = static_cast<float>(b.samples * b.width), factor = b.power / count;
    double error = 0;
    for (int64_t sample = 0, row = 0; sample < b.samples; ++sample) {
        const float* gate = modulation_of(b, sample, kGate2);
        if (b.of_modulation != nullptr) zero_sums(b, sample, {kGate2});
        for (int64_t token = 0; token < b.tokens; ++token, ++row) {
            const float* __restrict target = b.targets + (b.chosen[sample] * b.tokens + token) * b.width;
            const float *middle = b.middle + row * b.width, *out = b.output[kFc2] + row * b.width;
            float *__restrict gradient = b.gradient + row * b.width, *of_out = b.of_output[kFc2] + row * b.width;
            add_bias(b, kFc2, row, b.width);
            gated_sum(middle, gate, out, b.width, gradient);
            for (int64_t i = 0; i < b.width; ++i) gradient[i] = gradient[i] - target[i];
            error += error_of_row(gradient, b.width, b.power, factor);
            products(gradient, gate, b.width, of_out);
            if (b.of_modulation != nullptr) add_products(gradient, out, b.width, sums_of(b, sample, kGate2));
        }
    }
    b.error = error / count;
}

QDIT_INLINE void second_norm_backward(Block& b) {
    const float* statistics = b.statistics + 2 * b.samples * b.tokens;
    for (int64_t sample = 0, row = 0; sample < b.samples; ++sample) {
        const float *scale = modulation_of(b, sample, kScale2), *gate = modulation_of(b, sample, kGate1);
        if (b.of_modulation != nullptr) zero_sums(b, sample, {kGate1, kShift2, kScale2});
        for (int64_t token = 0; token < b.tokens; ++token, ++row) {
            const int64_t at = row * b.width;
            leave_linear(b, kFc1, row, b.width);
            const float *middle = b.middle + at, *g = b.of_entered[kFc1] + at;
            float *gradient = b.gradient + at, *of_projected = b.of_output[kProjection] + at;
            add_norm_gradient(b, middle, g, scale, statistics + 2 * row, gradient);
            products(gradient, gate, b.width, of_projected);
            if (b.of_modulation == nullptr) continue;
            add_shift_and_scale(middle, g, statistics + 2 * row, b.width, sums_of(b, sample, kShift2),
                                sums_of(b, sample, kScale2));
            add_products(gradient, b.output[kProjection] + at, b.width, sums_of(b, sample, kGate1));
        }
    }
}

QDIT_INLINE void first_norm_backward(Block& b) {
    for (int64_t sample = 0, row = 0; sample < b.samples; ++sample) {
        if (b.of_modulation != nullptr) zero_sums(b, sample, {kShift1, kScale1});
        for (int64_t token = 0; token < b.tokens; ++token, ++row) {
            leave_linear(b, kQkv, row, b.width);
            if (b.of_modulation == nullptr) continue;
            add_shift_and_scale(input_row(b, sample, token), b.of_entered[kQkv] + row * b.width, b.statistics + 2 * row,
                                b.width, sums_of(b, sample, kShift1), sums_of(b, sample, kScale1));
        }
    }
}

// Numbers of the passes in qdit/kernels/block.py, in the order of an iteration.
enum Stage { kFirstNorm, kAttention, kSecondNorm, kGelu, kLoss, kGeluBackward, kSecondBackward, kAttentionBackward, kFirstBackward };

QDIT_INLINE void run(int stage, Block& b, Head& head) {
    switch (stage) {
        case kFirstNorm:
            return first_norm(b);
        case kAttention:
            for (int64_t row = 0; row < b.samples * b.tokens; ++row) add_bias(b, kQkv, row, 3 * b.width);
            attention<true>(b, head);
            for (int64_t row = 0; row < b.samples * b.tokens; ++row) enter_linear(b, kProjection, row, b.width);
            return;
        case kSecondNorm:
            return second_norm(b);
        case kGelu:
            return gelu_forward(b);
        case kLoss:
            for (double& of_scale : b.of_scales) of_scale = 0;
            return loss(b);
        case kGeluBackward:
            return gelu_backward(b);
        case kSecondBackward:
            return second_norm_backward(b);
        case kAttentionBackward:
            for (int64_t row = 0; row < b.samples * b.tokens; ++row) leave_linear(b, kProjection, row, b.width);
            return attention<false>(b, head);
        case kFirstBackward:
            return first_norm_backward(b);
    }
}

#if defined(__x86_64__)
QDIT_AVX2 void run_avx2(int stage, Block& b, Head& head) { run(stage, b, head); }
QDIT_AVX512 void run_avx512(int stage, Block& b, Head& head) { run(stage, b, head); }
#endif

}  // namespace
}  // namespace qdit

// One pass of a block in training; widths are multiples of 16.
QDIT_EXPORT void qdit_block_pass(int variant, int stage, qdit::Block* block) {
    static thread_local qdit::Head head;
#if defined(__x86_64__)
    if (qdit::is_avx512(variant)) return qdit::run_avx512(stage, *block, head);
    if (qdit::is_avx2(variant)) return qdit::run_avx2(stage, *block, head);
#endif
    qdit::run(stage, *block, head);
}

// Bytes of the structure, which qdit/kernels/block.py compares with its own.
QDIT_EXPORT int64_t qdit_block_bytes() { return sizeof(qdit::Block); }
