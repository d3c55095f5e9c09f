// The portable variant: plain C++, any processor.
#include <cmath>
#include <limits>

#include "generic.h"

namespace qdit {
namespace {

// Half to even, without a branch or a library call: numbers from 2^23 on are integers.
inline float rounded(float value) {
    const float size = std::fabs(value);
    const float whole = std::copysign((size + 8388608.0f) - 8388608.0f, value);
    return size < 8388608.0f ? whole : value;
}

inline float clamped(float value, float low, float high) {  // NaN becomes low
    value = value > low ? value : low;
    return value < high ? value : high;
}

inline uint32_t not_finite(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return (bits & 0x7f800000u) == 0x7f800000u;
}

void extremes(const float* x, const Quantizer& q, const Groups& g) {
    for (int64_t group = 0; group < q.groups; ++group, x += q.group_size) {
        float low[4], high[4];
        for (int lane = 0; lane < 4; ++lane) low[lane] = high[lane] = x[lane];
        for (int64_t i = 4; i < q.group_size; i += 4) {
            for (int lane = 0; lane < 4; ++lane) {
                low[lane] = x[i + lane] < low[lane] ? x[i + lane] : low[lane];
                high[lane] = x[i + lane] > high[lane] ? x[i + lane] : high[lane];
            }
        }
        for (int lane = 1; lane < 4; ++lane) {
            low[0] = low[lane] < low[0] ? low[lane] : low[0];
            high[0] = high[lane] > high[0] ? high[lane] : high[0];
        }
        g.low[group] = low[0];
        g.high[group] = high[0];
    }
}

bool parameters(const Quantizer& q, const Groups& g) {
    const float half = (q.levels + 1) / 2, smallest = 1e-5f;
    bool finite = true;
    for (int64_t i = 0; i < q.groups; ++i) {
        float low = g.low[i], high = g.high[i], scale, zero;
        if (q.symmetric) {
            low = std::fabs(low), high = std::fabs(high);
            float bound = low > high ? low : high;
            scale = (bound > smallest ? bound : smallest) / (half - 1);
            zero = half;
        } else {
            low = low < 0 ? low : 0, high = high > 0 ? high : 0;
            float range = high - low;
            scale = (range > smallest ? range : smallest) / q.levels;
            zero = clamped(rounded(-low / scale), 0, q.levels);
        }
        finite = finite && scale <= std::numeric_limits<float>::max();
        g.scale[i] = scale;
        g.zero[i] = zero;
    }
    return finite;
}

bool codes(const float* __restrict x, const Quantizer& q, const Groups& g, uint8_t* __restrict out) {
    const float levels = q.levels;
    uint32_t bad = 0;
    for (int64_t group = 0; group < q.groups; ++group, x += q.group_size, out += q.group_size) {
        const float scale = g.scale[group], zero = g.zero[group];
        for (int64_t i = 0; i < q.group_size; ++i) {
            bad |= not_finite(x[i]);
            out[i] = static_cast<uint8_t>(static_cast<int32_t>(clamped(rounded(x[i] / scale) + zero, 0, levels)));
        }
    }
    return bad == 0;
}

bool values(const float* __restrict x, const Quantizer& q, const Groups& g, float* __restrict out) {
    const float levels = q.levels;
    uint32_t bad = 0;
    for (int64_t group = 0; group < q.groups; ++group, x += q.group_size, out += q.group_size) {
        const float scale = g.scale[group], zero = g.zero[group];
        for (int64_t i = 0; i < q.group_size; ++i) {
            bad |= not_finite(x[i]);
            out[i] = (clamped(rounded(x[i] / scale) + zero, 0, levels) - zero) * scale;
        }
    }
    return bad == 0;
}

void unpack(const PackedChunk& chunk, int8_t* out) { unpack_generic(chunk, out); }

bool finish(const float* part, int64_t columns, bool first, bool last, const float* bias, float* y) {
    return finish_generic(part, columns, first, last, bias, y);
}

void tile(int rows, const Tile& t) {
    for (int row = 0; row < rows; ++row) {
        const int8_t* weight = t.weight;
        const uint8_t* codes = t.codes + row * t.width;
        float* part = t.part + row * kColumns;
        for (int n = 0; n < kColumns; ++n) part[n] = 0;
        for (int64_t group = 0; group < t.chunk_groups; ++group) {
            int32_t sums[kColumns];
            const int64_t at = row * t.groups + group;
            for (int n = 0; n < kColumns; ++n) {
                sums[n] = dot_pairs(t.zeros[at], t.weight_sums[group * kColumns + n]);
                if (t.weight_zeros) sums[n] += dot_pairs(t.totals[at], t.weight_zeros[group * kColumns + n]);
            }
            for (int64_t step = 0; step < t.group_steps; ++step, codes += 4, weight += kBytes) {
                for (int n = 0; n < kColumns; ++n) {
                    const int8_t* w = weight + 4 * n;
                    sums[n] += codes[0] * w[0] + codes[1] * w[1] + codes[2] * w[2] + codes[3] * w[3];
                }
            }
            for (int n = 0; n < kColumns; ++n) {
                const float scaled = static_cast<float>(sums[n]) * t.weight_scale[group * kColumns + n];
                part[n] = std::fma(scaled, t.scale[at], part[n]);
            }
        }
    }
}

}  // namespace

const Kernel& scalar_kernel() {
    static const Kernel kernel{1, extremes, parameters, codes, values, unpack, tile, finish};
    return kernel;
}

}  // namespace qdit
