// Rows of the inputs: their quantizer, its memory, and threads. Threads split rows only, so their number changes no bit.
#pragma once
#include <atomic>
#include <cstring>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "kernel.h"

#define QDIT_EXPORT extern "C" __attribute__((visibility("default")))

namespace qdit {

inline std::vector<int32_t> group_index(const Quantizer& q, int lanes) {
    if (q.group_size % lanes == 0) return {};  // a vector never holds two groups
    std::vector<int32_t> index(static_cast<size_t>(q.width + kPadding));
    for (int64_t i = 0; i < q.width; ++i) {
        index[i] = static_cast<int32_t>(i / q.group_size - i / lanes * lanes / q.group_size);
    }
    return index;
}

// The memory of one thread for the parameters of one row.
class Row {
  public:
    Row(const Quantizer& q, const int32_t* index) : memory_(static_cast<size_t>(5 * (q.groups + kPadding) +
                                                                               2 * (q.width / 4 + kPadding))) {
        const int64_t stride = q.groups + kPadding;
        float* at = memory_.data();
        groups = Groups{at, at + stride, at + 2 * stride, at + 3 * stride, at + 4 * stride, at + 5 * stride, index};
    }
    Groups groups;

  private:
    std::vector<float> memory_;
};

// work(first row, end row) -> Status, over threads; the largest status.
template <class Work>
inline int over_rows(int64_t rows, int threads, const Work& work) {
    std::atomic<int> status{kOk};
    const auto guarded = [&](int64_t begin, int64_t end) {
        int found = kFailed;
        try {
            found = work(begin, end);
        } catch (...) {
        }
        int before = status.load();
        while (before < found && !status.compare_exchange_weak(before, found)) {
        }
    };
    const int64_t parts = threads < 1 ? 1 : (threads < rows ? threads : rows);
    std::vector<std::thread> pool;
    int64_t begin = 0;
    for (int64_t part = 1; part < parts; ++part) {
        const int64_t end = rows * part / parts;
        try {
            pool.emplace_back(guarded, begin, end);
        } catch (const std::system_error&) {  // no more threads: this one does it
            guarded(begin, end);
        }
        begin = end;
    }
    guarded(begin, rows);
    for (std::thread& thread : pool) thread.join();
    return status.load();
}

inline bool makes_quantizer(int64_t width, int64_t group_size, int bits, bool symmetric, Quantizer& q) {
    if (width < 1 || group_size < 1 || width % group_size || bits < 2 || bits > 8) return false;
    q = Quantizer{width, group_size, width / group_size, static_cast<float>((1 << bits) - 1), symmetric};
    return true;
}

// Given ranges of the inputs, one pair per group of the quantizer.
inline void give_ranges(const Quantizer& q, const float* scale, const float* zero, const Groups& g) {
    for (int64_t i = 0; i < q.groups; ++i) {
        g.scale[i] = scale[i];
        g.zero[i] = zero[i];
        const bool safe = scale[i] > 1e-30f && scale[i] < 1e30f && zero[i] >= 0 && zero[i] <= q.levels;
        g.inverse[i] = safe ? 1 / scale[i] : std::numeric_limits<float>::quiet_NaN();
    }
}

// Whether the steps of a transform fit rows of this width.
inline bool fit_steps(int64_t width, int64_t count, const TransformStep* steps) {
    for (int64_t s = 0; s < count; ++s) {
        const int64_t size = steps[s].size;
        if (steps[s].kind < 0 || steps[s].kind >= kStepKinds) return false;
        if (steps[s].kind != kHadamard && steps[s].values == nullptr) return false;
        if (steps[s].kind == kHadamard && (size < 2 || (size & (size - 1)) || width % size)) return false;
    }
    return count >= 0;
}

// out = the steps applied to one row.
inline void transform_row(int variant, const float* x, int64_t width, int64_t count, const TransformStep* steps,
                          float* out) {
    std::memcpy(out, x, static_cast<size_t>(width) * sizeof(float));
    for (int64_t s = 0; s < count; ++s) float_kernel(variant).transform(out, width, steps[s]);
}

}  // namespace qdit
