// Loops that the compiler vectorizes for each variant's target. No sums of floats: the order is fixed elsewhere.
#pragma once
#include <cstring>

#include "kernel.h"

#define QDIT_INLINE static inline __attribute__((always_inline))

namespace qdit {

template <bool kCentered = false>
QDIT_INLINE void unpack_generic(const PackedChunk& chunk, int8_t* __restrict out) {
    const int64_t steps = chunk.groups * chunk.group_steps, padded = (steps + 3) / 4 * 4;
    const uint8_t* twos = chunk.codes + padded / 2 * kBytes;
    alignas(64) uint8_t zero[kBytes] = {};
    if (kCentered) std::memset(zero, center(chunk.storage), kBytes);
    for (int64_t step = 0, group = -1, left = 0; step < steps; ++step, --left) {
        if (!kCentered && left == 0) {
            ++group;
            left = chunk.group_steps;
            uint32_t zeros[kColumns];
            for (int n = 0; n < kColumns; ++n) {
                zeros[n] = static_cast<uint8_t>(chunk.zeros[group * kColumns + n]) * 0x01010101u;
            }
            std::memcpy(zero, zeros, kBytes);
        }
        const uint8_t* __restrict nibbles = chunk.codes + step / 2 * kBytes;
        int8_t* __restrict to = out + step * kBytes;
        const int shift = step % 2 * 4;
        if (chunk.storage == 4) {
            for (int i = 0; i < kBytes; ++i) {
                to[i] = static_cast<int8_t>(((nibbles[i] >> shift) & 15) - zero[i]);
            }
        } else {
            const uint8_t* __restrict two = twos + step / 4 * kBytes;
            const int two_shift = step % 4 * 2;
            for (int i = 0; i < kBytes; ++i) {
                to[i] = static_cast<int8_t>(
                    (((nibbles[i] >> shift) & 15) | (((two[i] >> two_shift) & 3) << 4)) - zero[i]);
            }
        }
    }
}

QDIT_INLINE bool finish_generic(const float* __restrict part, int64_t columns, bool first, bool last,
                                const float* __restrict bias, float* __restrict y) {
    if (first) {
        for (int64_t n = 0; n < columns; ++n) y[n] = part[n];
    } else {
        for (int64_t n = 0; n < columns; ++n) y[n] = y[n] + part[n];
    }
    if (!last) return true;
    if (bias != nullptr) {
        for (int64_t n = 0; n < columns; ++n) y[n] = y[n] + bias[n];
    }
    uint32_t bad = 0;
    for (int64_t n = 0; n < columns; ++n) {
        uint32_t bits;
        std::memcpy(&bits, y + n, 4);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad == 0;
}

// The extremes of groups from those of their quads (4 consecutive elements); group sizes are multiples of 4.
QDIT_INLINE void extremes_of_quads(const Quantizer& q, const Groups& g, const float* low, const float* high) {
    const int64_t quads = q.group_size / 4;
    for (int64_t group = 0; group < q.groups; ++group, low += quads, high += quads) {
        float smallest = low[0], largest = high[0];
        for (int64_t i = 1; i < quads; ++i) {
            smallest = low[i] < smallest ? low[i] : smallest;
            largest = high[i] > largest ? high[i] : largest;
        }
        g.low[group] = smallest;
        g.high[group] = largest;
    }
}

// Dot product of two pairs of 16-bit integers.
QDIT_INLINE int32_t dot_pairs(int32_t a, int32_t b) {
    return static_cast<int16_t>(a & 0xffff) * static_cast<int16_t>(b & 0xffff) + (a >> 16) * (b >> 16);
}

}  // namespace qdit
