// Search for the grid (scale and zero point) with the smallest error. Sums have one order: all variants give the same bits.
#include <algorithm>
#include <cmath>

#include "elementary.h"

namespace qdit {
namespace {

// |x - value on the grid|^power. Not finite where x, the grid or the power is not.
QDIT_INLINE float error_of(const Grid& grid, float x, float power) {
    float code = nearest(x / grid.scale) + grid.zero;
    code = code < 0.f ? 0.f : code;
    code = code > grid.levels ? grid.levels : code;
    const float distance = std::fabs((code - grid.zero) * grid.scale - x), exponent = power * logarithm_of(distance);
    const float large = distance - distance;  // 0, or NaN where the distance is not finite
    return (exponent > 127.f ? HUGE_VALF : power_of_two(exponent)) + large;
}

// Sum of these errors, in lanes of float32 over 1024 values and in float64 over all.
QDIT_INLINE double error_on_grid(const Grid& grid, const float* __restrict x, int64_t count, float power) {
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += 1024) {
        float lanes[16] = {};
        const int64_t end = begin + 1024 < count ? begin + 1024 : count;
        int64_t at = begin;
        for (; at + 16 <= end; at += 16) {
            for (int i = 0; i < 16; ++i) lanes[i] += error_of(grid, x[at + i], power);
        }
        for (; at < end; ++at) lanes[at - end + 16] += error_of(grid, x[at], power);
        for (float lane : lanes) total += lane;
    }
    return total;
}

#if defined(__x86_64__)
QDIT_AVX2 double error_avx2(const Grid& g, const float* x, int64_t n, float power) {
    return error_on_grid(g, x, n, power);
}
QDIT_AVX512 double error_avx512(const Grid& g, const float* x, int64_t n, float power) {
    return error_on_grid(g, x, n, power);
}
#endif

double error_by(int variant, const Grid& grid, const float* x, int64_t count, float power) {
#if defined(__x86_64__)
    if (is_avx512(variant)) return error_avx512(grid, x, count, power);
    if (is_avx2(variant)) return error_avx2(grid, x, count, power);
#endif
    return error_on_grid(grid, x, count, power);
}

}  // namespace
}  // namespace qdit

// Index of the grid (scales, zeros: `candidates` each) with the smallest sum of |x - value|^power over a row of `width`
// values, for each of `rows` rows; the first of equal ones, `otherwise` where no sum is finite. The sum of a candidate
// ends where it exceeds the best one. `heads` and `order` are scratch of `candidates` elements.
QDIT_EXPORT void qdit_lowest_error(int variant, int64_t rows, int64_t width, int64_t candidates, const float* x,
                                   const float* scales, const float* zeros, float levels, float power,
                                   int64_t otherwise, double* heads, int64_t* order, int64_t* index) {
    const int64_t piece = 8192, head = width < piece ? width : piece;
    for (int64_t row = 0; row < rows; ++row, x += width, scales += candidates, zeros += candidates) {
        for (int64_t c = 0; c < candidates; ++c) {
            order[c] = c;
            heads[c] = qdit::error_by(variant, {scales[c], zeros[c], levels}, x, head, power);
            if (!(heads[c] < HUGE_VAL)) heads[c] = HUGE_VAL;  // NaN, too
        }
        std::stable_sort(order, order + candidates, [&](int64_t a, int64_t b) { return heads[a] < heads[b]; });
        double best = HUGE_VAL;
        index[row] = otherwise;
        for (int64_t rank = 0; rank < candidates; ++rank) {
            const int64_t c = order[rank];
            double total = heads[c];
            for (int64_t at = head; at < width && total <= best && total < HUGE_VAL; at += piece) {
                const int64_t count = width - at < piece ? width - at : piece;
                total += qdit::error_by(variant, {scales[c], zeros[c], levels}, x + at, count, power);
            }
            if (total < best || (total == best && best < HUGE_VAL && c < index[row])) {
                best = total;
                index[row] = c;
            }
        }
    }
}
