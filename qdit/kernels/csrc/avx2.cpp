// AVX2 with FMA. In the order of operations of a sum it equals the scalar variant bit for bit.
#include "generic.h"
#include "processor.h"

#if defined(__x86_64__)
#include <cfloat>

#include "avx2_tile.h"

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

// Codes where a group is a multiple of 32: what belongs to it stays in registers, and 32 bytes are stored at once.
QDIT_AVX2_INLINE bool codes_of_whole_vectors(const float* x, const Quantizer& q, const Groups& g, uint8_t* out) {
    const __m256 levels = _mm256_set1_ps(q.levels), none = _mm256_setzero_ps();
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256 poison = none;
    for (int64_t group = 0; group < q.groups; ++group) {
        const __m256 scale = _mm256_set1_ps(g.scale[group]), zero = _mm256_set1_ps(g.zero[group]);
        const __m256 inverse = _mm256_set1_ps(g.inverse[group]);
        for (const float* end = x + q.group_size; x < end; x += 32, out += 32) {
            __m256i whole[4];
            for (int i = 0; i < 4; ++i) {
                const __m256 v = _mm256_loadu_ps(x + 8 * i);
                poison = _mm256_fmadd_ps(v, none, poison);
                whole[i] = _mm256_cvtps_epi32(code(v, scale, zero, inverse, levels));
            }
            const __m256i first = _mm256_packus_epi32(whole[0], whole[1]), last = _mm256_packus_epi32(whole[2], whole[3]);
            const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, last), order);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
        }
    }
    return _mm256_movemask_ps(_mm256_cmp_ps(poison, poison, _CMP_UNORD_Q)) == 0;
}

QDIT_AVX2 bool codes(const float* x, const Quantizer& q, const Groups& g, uint8_t* out) {
    return q.group_size % 32 == 0 ? codes_of_whole_vectors(x, q, g, out) : emit<true>(x, q, g, out);
}

QDIT_AVX2 bool values(const float* x, const Quantizer& q, const Groups& g, float* out) {
    return emit<false>(x, q, g, out);
}

// Four steps of 32 bytes at once: two of them share a byte of four bits, all four a byte of two bits.
template <int kStorage>
QDIT_AVX2_INLINE void unpack_steps(const uint8_t* nibbles, const uint8_t* twos, int64_t steps, int8_t* out) {
    const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(0x30);
    const __m256i middle = _mm256_set1_epi8(center(kStorage));
    for (int64_t step = 0; step < steps; step += 4, nibbles += 2 * kBytes, twos += kBytes) {
        for (int at = 0; at < kBytes; at += 32) {
            __m256i codes[4];
            for (int pair = 0; pair < 2; ++pair) {
                const __m256i both = load(nibbles + pair * kBytes + at);
                codes[2 * pair] = _mm256_and_si256(both, low);
                codes[2 * pair + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
            if (kStorage == 6) {
                const __m256i two = load(twos + at);
                codes[0] = _mm256_or_si256(codes[0], _mm256_and_si256(_mm256_slli_epi16(two, 4), high));
                codes[1] = _mm256_or_si256(codes[1], _mm256_and_si256(_mm256_slli_epi16(two, 2), high));
                codes[2] = _mm256_or_si256(codes[2], _mm256_and_si256(two, high));
                codes[3] = _mm256_or_si256(codes[3], _mm256_and_si256(_mm256_srli_epi16(two, 2), high));
            }
            for (int s = 0; s < 4 && step + s < steps; ++s) {
                auto* to = reinterpret_cast<__m256i*>(out + (step + s) * kBytes + at);
                _mm256_storeu_si256(to, _mm256_sub_epi8(codes[s], middle));
            }
        }
    }
}

QDIT_AVX2 void unpack_centered(const PackedChunk& chunk, int8_t* out) {
    const int64_t steps = chunk.groups * chunk.group_steps;
    const uint8_t* twos = chunk.codes + (steps + 3) / 4 * 2 * kBytes;
    chunk.storage == 4 ? unpack_steps<4>(chunk.codes, twos, steps, out) : unpack_steps<6>(chunk.codes, twos, steps, out);
}

QDIT_AVX2 bool finish(const float* part, int64_t columns, bool first, bool last, const float* bias, float* y) {
    return finish_generic(part, columns, first, last, bias, y);
}

}  // namespace

const Kernel* avx2_kernel() {
    static const Kernel kernel{8, extremes, parameters, codes, values, unpack, tile, finish, tile_to, nullptr,
                               unpack_centered};
    static const Processor processor;
    return processor.avx2 ? &kernel : nullptr;
}

}  // namespace qdit

#else
namespace qdit {
const Kernel* avx2_kernel() { return nullptr; }
}  // namespace qdit
#endif
