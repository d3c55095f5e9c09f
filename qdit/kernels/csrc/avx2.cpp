// AVX2 with FMA. In the order of operations of a sum it equals the scalar variant bit for bit.
#include "generic.h"
#include "processor.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>

#define QDIT_AVX2 __attribute__((target("avx2,fma")))
#define QDIT_AVX2_INLINE QDIT_AVX2 static inline __attribute__((always_inline))

namespace qdit {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

QDIT_AVX2_INLINE __m256 absolute(__m256 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

// All ones in the first `count` lanes.
QDIT_AVX2_INLINE __m256i first_lanes(int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count > 8 ? 8 : static_cast<int>(count)), lane);
}

QDIT_AVX2 void extremes(const float* x, const Quantizer& q, const Groups& g) {
    float *lows = g.quads, *highs = g.quads + q.width / 4 + kPadding;
    if (q.group_size % 8 == 0) {  // fold each group to 8, as two quads
        for (int64_t group = 0; group < q.groups; ++group, x += q.group_size) {
            __m256 low = _mm256_loadu_ps(x), high = low;
            for (int64_t i = 8; i < q.group_size; i += 8) {
                const __m256 v = _mm256_loadu_ps(x + i);
                low = _mm256_min_ps(low, v);
                high = _mm256_max_ps(high, v);
            }
            __m128 l = _mm_min_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
            __m128 h = _mm_max_ps(_mm256_castps256_ps128(high), _mm256_extractf128_ps(high, 1));
            l = _mm_min_ps(l, _mm_movehl_ps(l, l));
            h = _mm_max_ps(h, _mm_movehl_ps(h, h));
            g.low[group] = _mm_cvtss_f32(_mm_min_ss(l, _mm_movehdup_ps(l)));
            g.high[group] = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
        }
        return;
    }
    for (int64_t i = 0; i < q.width; i += 4) {
        const __m128 v = _mm_loadu_ps(x + i), swapped = _mm_permute_ps(v, 0xb1);
        const __m128 low = _mm_min_ps(v, swapped), high = _mm_max_ps(v, swapped);
        lows[i / 4] = _mm_cvtss_f32(_mm_min_ss(low, _mm_movehl_ps(low, low)));
        highs[i / 4] = _mm_cvtss_f32(_mm_max_ss(high, _mm_movehl_ps(high, high)));
    }
    extremes_of_quads(q, g, lows, highs);
}

QDIT_AVX2 bool parameters(const Quantizer& q, const Groups& g) {
    const __m256 smallest = _mm256_set1_ps(1e-5f), levels = _mm256_set1_ps(q.levels), none = _mm256_setzero_ps();
    const __m256 half = _mm256_set1_ps((q.levels + 1) / 2), largest_code = _mm256_set1_ps((q.levels + 1) / 2 - 1);
    __m256 bad = none;
    for (int64_t i = 0; i < q.groups; i += 8) {
        __m256 low = _mm256_loadu_ps(g.low + i), high = _mm256_loadu_ps(g.high + i), scale, zero;
        if (q.symmetric) {
            const __m256 bound = _mm256_max_ps(absolute(low), absolute(high));
            scale = _mm256_div_ps(_mm256_max_ps(bound, smallest), largest_code);
            zero = half;
        } else {
            low = _mm256_min_ps(low, none);
            high = _mm256_max_ps(high, none);
            scale = _mm256_div_ps(_mm256_max_ps(_mm256_sub_ps(high, low), smallest), levels);
            zero = _mm256_round_ps(_mm256_div_ps(_mm256_sub_ps(none, low), scale), kNearest);
            zero = _mm256_min_ps(_mm256_max_ps(zero, none), levels);
        }
        const __m256 infinite = _mm256_cmp_ps(scale, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ);
        bad = _mm256_or_ps(bad, _mm256_and_ps(infinite, _mm256_castsi256_ps(first_lanes(q.groups - i))));
        _mm256_storeu_ps(g.scale + i, scale);
        _mm256_storeu_ps(g.zero + i, zero);
        _mm256_storeu_ps(g.inverse + i, _mm256_div_ps(_mm256_set1_ps(1), scale));
    }
    return _mm256_movemask_ps(bad) == 0;
}

// Codes of one vector; why so, see the AVX512 variant.
QDIT_AVX2_INLINE __m256 code(__m256 x, __m256 scale, __m256 zero, __m256 inverse, __m256 levels) {
    const __m256 quotient = _mm256_mul_ps(x, inverse);
    __m256 whole = _mm256_round_ps(quotient, kNearest);
    const __m256 away = absolute(_mm256_sub_ps(quotient, whole));
    const __m256 unsure = _mm256_cmp_ps(away, _mm256_set1_ps(0.4995f), _CMP_NLT_UQ);
    if (__builtin_expect(_mm256_movemask_ps(unsure) != 0, 0)) {
        whole = _mm256_blendv_ps(whole, _mm256_round_ps(_mm256_div_ps(x, scale), kNearest), unsure);
    }
    return _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(whole, zero), _mm256_setzero_ps()), levels);
}

QDIT_AVX2_INLINE void store_codes(__m256 c, int64_t count, uint8_t* out) {
    const __m256i wide = _mm256_cvtps_epi32(c);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i bytes = _mm_packus_epi16(words, words);
    const int64_t eight = _mm_cvtsi128_si64(bytes);
    std::memcpy(out, &eight, count >= 8 ? 8 : static_cast<size_t>(count));
}

template <bool kCodes, typename Out>
QDIT_AVX2_INLINE bool emit(const float* x, const Quantizer& q, const Groups& g, Out* out) {
    const __m256 levels = _mm256_set1_ps(q.levels), none = _mm256_setzero_ps();
    __m256 poison = none;  // NaN as soon as one x is not finite
    const bool uniform = q.group_size % 8 == 0;
    for (int64_t i = 0, group = 0, left = q.group_size; i < q.width; i += 8) {
        const bool full = i + 8 <= q.width;
        const __m256i lanes = first_lanes(q.width - i);
        const __m256 v = full ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, lanes);
        __m256 scale, zero, inverse;
        if (uniform) {
            scale = _mm256_set1_ps(g.scale[group]);
            zero = _mm256_set1_ps(g.zero[group]);
            inverse = _mm256_set1_ps(g.inverse[group]);
        } else {
            const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(g.index + i));
            scale = _mm256_permutevar8x32_ps(_mm256_loadu_ps(g.scale + group), index);
            zero = _mm256_permutevar8x32_ps(_mm256_loadu_ps(g.zero + group), index);
            inverse = _mm256_permutevar8x32_ps(_mm256_loadu_ps(g.inverse + group), index);
        }
        const __m256 c = code(v, scale, zero, inverse, levels);
        poison = _mm256_fmadd_ps(v, none, poison);
        if constexpr (kCodes) {
            store_codes(c, q.width - i, out + i);
        } else {
            const __m256 y = _mm256_mul_ps(_mm256_sub_ps(c, zero), scale);
            full ? _mm256_storeu_ps(out + i, y) : _mm256_maskstore_ps(out + i, lanes, y);
        }
        for (left -= 8; left <= 0; left += q.group_size) ++group;
    }
    return _mm256_movemask_ps(_mm256_cmp_ps(poison, poison, _CMP_UNORD_Q)) == 0;
}

QDIT_AVX2 bool codes(const float* x, const Quantizer& q, const Groups& g, uint8_t* out) {
    return emit<true>(x, q, g, out);
}

QDIT_AVX2 bool values(const float* x, const Quantizer& q, const Groups& g, float* out) {
    return emit<false>(x, q, g, out);
}

QDIT_AVX2 void unpack(const PackedChunk& chunk, int8_t* out) { unpack_generic(chunk, out); }

QDIT_AVX2 bool finish(const float* part, int64_t columns, bool first, bool last, const float* bias, float* y) {
    return finish_generic(part, columns, first, last, bias, y);
}

QDIT_AVX2_INLINE __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

QDIT_AVX2_INLINE __m256i broadcast(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

// Sum of `steps` (at most 4) products of 4 bytes. vpmaddubsw adds two products in 16 bits and saturates: 4-bit weights
// (at most 15) leave room for four steps, 2 * 255 * 15 * 4 < 32767, 6-bit ones (at most 63) for one, 8-bit ones for
// none, so those are widened.
template <int kStorage, int kSteps>
QDIT_AVX2_INLINE __m256i products(const __m256i* a, const int8_t* w) {
    if constexpr (kStorage == 8) {
        const __m256i v = load(w);
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), odd = _mm256_srai_epi16(v, 8);
        return _mm256_add_epi32(_mm256_madd_epi16(_mm256_and_si256(*a, _mm256_set1_epi16(255)), even),
                                _mm256_madd_epi16(_mm256_srli_epi16(*a, 8), odd));
    } else {
        __m256i sum = _mm256_maddubs_epi16(a[0], load(w));
        for (int s = 1; s < kSteps; ++s) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a[s], load(w + s * kBytes)));
        return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    }
}

template <int kRows, int kStorage, int kSteps>
QDIT_AVX2_INLINE void advance(__m256i (&sums)[kRows][2], const uint8_t* codes, int64_t width, const int8_t* w) {
    for (int r = 0; r < kRows; ++r) {
        __m256i a[kSteps];
        for (int s = 0; s < kSteps; ++s) a[s] = broadcast(codes + r * width + 4 * s);
        for (int v = 0; v < 2; ++v) {
            sums[r][v] = _mm256_add_epi32(sums[r][v], products<kStorage, kSteps>(a, w + 32 * v));
        }
    }
}

// 16 of the panel's 48 columns, from column `first`.
template <int kRows, int kStorage>
QDIT_AVX2 void tile_columns(const Tile& t, int first) {
    constexpr int kSteps = kStorage == 4 ? 4 : 1;
    __m256 parts[kRows][2];
    for (auto& row : parts) for (auto& part : row) part = _mm256_setzero_ps();
    const int8_t* weight = t.weight + 4 * first;
    const uint8_t* codes = t.codes;
    for (int64_t group = 0; group < t.chunk_groups; ++group) {
        const int64_t column = group * kColumns + first;
        __m256i sums[kRows][2];
        for (int r = 0; r < kRows; ++r) {
            const int64_t at = r * t.groups + group;
            for (int v = 0; v < 2; ++v) {
                sums[r][v] = _mm256_madd_epi16(_mm256_set1_epi32(t.zeros[at]), load(t.weight_sums + column + 8 * v));
                if (t.weight_zeros == nullptr) continue;
                sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(_mm256_set1_epi32(t.totals[at]),
                                                                           load(t.weight_zeros + column + 8 * v)));
            }
        }
        int64_t step = 0;
        for (; step + kSteps <= t.group_steps; step += kSteps, codes += 4 * kSteps, weight += kSteps * kBytes) {
            advance<kRows, kStorage, kSteps>(sums, codes, t.width, weight);
        }
        for (; step < t.group_steps; ++step, codes += 4, weight += kBytes) {
            advance<kRows, kStorage, 1>(sums, codes, t.width, weight);
        }
        for (int r = 0; r < kRows; ++r) {
            const __m256 scale = _mm256_set1_ps(t.scale[r * t.groups + group]);
            for (int v = 0; v < 2; ++v) {
                const __m256 weight_scale = _mm256_loadu_ps(t.weight_scale + column + 8 * v);
                const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][v]), weight_scale);
                parts[r][v] = _mm256_fmadd_ps(scaled, scale, parts[r][v]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < 2; ++v) _mm256_storeu_ps(t.part + r * kColumns + first + 8 * v, parts[r][v]);
    }
}

template <int kRows>
void tile_rows(const Tile& t) {
    for (int first = 0; first < kColumns; first += 16) {
        if (t.storage == 4) tile_columns<kRows, 4>(t, first);
        else if (t.storage == 6) tile_columns<kRows, 6>(t, first);
        else tile_columns<kRows, 8>(t, first);
    }
}

void tile(int rows, const Tile& t) {
    static_assert(kTileRows == 4, "one case per number of rows");
    switch (rows) {
        case 1: return tile_rows<1>(t);
        case 2: return tile_rows<2>(t);
        case 3: return tile_rows<3>(t);
        default: return tile_rows<4>(t);
    }
}

}  // namespace

const Kernel* avx2_kernel() {
    static const Kernel kernel{8, extremes, parameters, codes, values, unpack, tile, finish};
    static const Processor processor;
    return processor.avx2 ? &kernel : nullptr;
}

}  // namespace qdit

#else
namespace qdit {
const Kernel* avx2_kernel() { return nullptr; }
}  // namespace qdit
#endif
