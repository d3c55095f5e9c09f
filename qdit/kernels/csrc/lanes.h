// Vectors of 16 floats, and sums over a row in one order, so that all variants give the same bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "generic.h"

namespace qdit {

constexpr int64_t kLanes = 16;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// By reference: a function that takes or returns vectors has another ABI on each target.
template <class V>
QDIT_INLINE void load(V& to, const float* from) { std::memcpy(&to, from, sizeof to); }
template <class V>
QDIT_INLINE void store(float* to, const V& from) { std::memcpy(to, &from, sizeof from); }

QDIT_INLINE float sum_of(const Floats& lanes) {
    float halves[kLanes];
    store(halves, lanes);
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (int64_t i = 0; i < width; ++i) halves[i] = halves[i] + halves[i + width];
    }
    return halves[0];
}

}  // namespace qdit
