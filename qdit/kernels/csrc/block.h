// A DiT block in training: the buffers of one iteration, and what its passes share. docs/kernels.md explains it.
#pragma once
#include "elementary.h"
#include "lanes.h"

namespace qdit {

constexpr int64_t kMostTokens = 64;
constexpr int64_t kMostChannels = 128;

enum Linear { kQkv, kProjection, kFc1, kFc2, kLinears };
enum Operand { kQ = kLinears, kK, kP, kV, kGrids };  // their grids come after those of the linears' inputs
enum Modulation { kShift1, kScale1, kGate1, kShift2, kScale2, kGate2, kModulations };

// qdit/kernels/block.py has the same fields. A row is a token: there are samples x tokens rows.
struct Block {
    int64_t samples, tokens, heads, channels, width, hidden;  // channels of one head; width = heads x channels
    float epsilon, attention_scale, power;
    const int64_t* chosen;      // the sample's place in `x` and `targets`
    const float *x, *targets;   // (all samples, tokens, width)
    const float* modulation;    // (samples, 6, width), or (all samples, 6, width)
    int64_t modulation_of_all;
    const float* bias[kLinears];
    const float* factor;        // (width): V is multiplied by it before its quantizer and divided after it; or null
    float grids[kGrids][3];     // scale, zero point, levels; 0 levels: no quantizer
    float *entered[kLinears], *rounded[kLinears];  // inputs before and after the quantizer; the same without one
    float *output[kLinears], *of_output[kLinears], *of_entered[kLinears];  // of_...: gradients
    float *middle, *slope;      // after attention (rows, width); of GELU (rows, hidden)
    float *gradient;            // of the output, then of `middle`
    float *statistics;          // mean and 1 / deviation of each row, of both norms: (2, rows, 2)
    float *weights;             // softmax before its quantizer (samples, heads, keys, queries in whole lanes)
    float *of_modulation;       // (samples, 6, width), or null
    double of_scales[kGrids];   // scale x the gradient of each scale
    double error;
};

QDIT_INLINE const float* modulation_of(const Block& b, int64_t sample, Modulation which) {
    return b.modulation + ((b.modulation_of_all ? b.chosen[sample] : sample) * kModulations + which) * b.width;
}

QDIT_INLINE Grid grid_of(const Block& b, int which) { return {b.grids[which][0], b.grids[which][1], b.grids[which][2]}; }

// The gradient that passes the grid, in place, for x and its value y on the grid. Returns scale x the gradient of the
// scale. Counts are whole lanes. The bounds of x are those between which codes are not clamped.
QDIT_INLINE double through_grid(const Grid& grid, const float* __restrict x, const float* __restrict y,
                                float* __restrict gradient, int64_t count) {
    const float low = (-grid.zero - 0.5f) * grid.scale, high = (grid.levels - grid.zero + 0.5f) * grid.scale;
    float lanes[kLanes] = {};
    for (int64_t at = 0; at < count; at += kLanes) {
        for (int i = 0; i < kLanes; ++i) {
            const float value = x[at + i], g = gradient[at + i];
            float through = value >= low ? g : 0.f;
            through = value <= high ? through : 0.f;
            gradient[at + i] = through;
            lanes[i] = lanes[i] + (g * y[at + i] - through * value);
        }
    }
    Floats total;
    load(total, lanes);
    return sum_of(total);
}

}  // namespace qdit
