// AVX512 with VNNI. In the order of operations of a sum it equals the scalar variant bit for bit.
#include "generic.h"
#include "processor.h"

#if defined(__x86_64__)
#include <cfloat>

#include "avx512.h"

namespace qdit {
namespace {

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

QDIT_AVX512_INLINE __mmask16 first_lanes(int64_t count) {
    return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

QDIT_AVX512 void extremes(const float* x, const Quantizer& q, const Groups& g) {
    if (q.group_size % 16 == 0) {
        for (int64_t group = 0; group < q.groups; ++group, x += q.group_size) {
            __m512 low = _mm512_loadu_ps(x), high = low;
            for (int64_t i = 16; i < q.group_size; i += 16) {
                const __m512 v = _mm512_loadu_ps(x + i);
                low = _mm512_min_ps(low, v);
                high = _mm512_max_ps(high, v);
            }
            g.low[group] = _mm512_reduce_min_ps(low);
            g.high[group] = _mm512_reduce_max_ps(high);
        }
        return;
    }
    float *lows = g.quads, *highs = g.quads + q.width / 4 + kPadding;
    for (int64_t i = 0; i < q.width; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(first_lanes(q.width - i), x + i);
        __m512 swapped = _mm512_permute_ps(v, 0xb1);
        __m512 low = _mm512_min_ps(v, swapped), high = _mm512_max_ps(v, swapped);
        low = _mm512_min_ps(low, _mm512_permute_ps(low, 0x4e));
        high = _mm512_max_ps(high, _mm512_permute_ps(high, 0x4e));
        _mm_storeu_ps(lows + i / 4, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, low)));
        _mm_storeu_ps(highs + i / 4, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, high)));
    }
    extremes_of_quads(q, g, lows, highs);
}

QDIT_AVX512 bool parameters(const Quantizer& q, const Groups& g) {
    const __m512 smallest = _mm512_set1_ps(1e-5f), levels = _mm512_set1_ps(q.levels), none = _mm512_setzero_ps();
    const __m512 half = _mm512_set1_ps((q.levels + 1) / 2), largest_code = _mm512_set1_ps((q.levels + 1) / 2 - 1);
    __mmask16 bad = 0;
    for (int64_t i = 0; i < q.groups; i += 16) {
        __m512 low = _mm512_loadu_ps(g.low + i), high = _mm512_loadu_ps(g.high + i), scale, zero;
        if (q.symmetric) {
            const __m512 bound = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
            scale = _mm512_div_ps(_mm512_max_ps(bound, smallest), largest_code);
            zero = half;
        } else {
            low = _mm512_min_ps(low, none);
            high = _mm512_max_ps(high, none);
            scale = _mm512_div_ps(_mm512_max_ps(_mm512_sub_ps(high, low), smallest), levels);
            zero = _mm512_roundscale_ps(_mm512_div_ps(_mm512_sub_ps(none, low), scale), kNearest);
            zero = _mm512_min_ps(_mm512_max_ps(zero, none), levels);
        }
        bad |= _mm512_mask_cmp_ps_mask(first_lanes(q.groups - i), scale, _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ);
        _mm512_storeu_ps(g.scale + i, scale);
        _mm512_storeu_ps(g.zero + i, zero);
        _mm512_storeu_ps(g.inverse + i, _mm512_div_ps(_mm512_set1_ps(1), scale));
    }
    return bad == 0;
}

// Codes of one vector. x * (1 / scale) differs from x / scale by less than 0.0005 wherever codes are not clamped, so
// only lanes that near to a tie (or without an inverse) need the division itself.
QDIT_AVX512_INLINE __m512 code(__m512 x, __m512 scale, __m512 zero, __m512 inverse, __m512 levels) {
    const __m512 quotient = _mm512_mul_ps(x, inverse);
    __m512 whole = _mm512_roundscale_ps(quotient, kNearest);
    const __m512 away = _mm512_abs_ps(_mm512_sub_ps(quotient, whole));
    const __mmask16 unsure = _mm512_cmp_ps_mask(away, _mm512_set1_ps(0.4995f), _CMP_NLT_UQ);
    if (__builtin_expect(unsure != 0, 0)) {
        whole = _mm512_mask_roundscale_ps(whole, unsure, _mm512_div_ps(x, scale), kNearest);
    }
    return _mm512_min_ps(_mm512_max_ps(_mm512_add_ps(whole, zero), _mm512_setzero_ps()), levels);
}

template <bool kCodes, typename Out>
QDIT_AVX512_INLINE bool emit(const float* x, const Quantizer& q, const Groups& g, Out* out) {
    const __m512 levels = _mm512_set1_ps(q.levels), none = _mm512_setzero_ps();
    __m512 poison = none;  // NaN as soon as one x is not finite
    const bool uniform = q.group_size % 16 == 0;
    for (int64_t i = 0, group = 0, left = q.group_size; i < q.width; i += 16) {
        const __mmask16 lanes = first_lanes(q.width - i);
        const bool full = i + 16 <= q.width;
        const __m512 v = full ? _mm512_loadu_ps(x + i) : _mm512_maskz_loadu_ps(lanes, x + i);
        __m512 scale, zero, inverse;
        if (uniform) {
            scale = _mm512_set1_ps(g.scale[group]);
            zero = _mm512_set1_ps(g.zero[group]);
            inverse = _mm512_set1_ps(g.inverse[group]);
        } else {
            const __m512i index = _mm512_loadu_si512(g.index + i);
            scale = _mm512_permutexvar_ps(index, _mm512_loadu_ps(g.scale + group));
            zero = _mm512_permutexvar_ps(index, _mm512_loadu_ps(g.zero + group));
            inverse = _mm512_permutexvar_ps(index, _mm512_loadu_ps(g.inverse + group));
        }
        const __m512 c = code(v, scale, zero, inverse, levels);
        poison = _mm512_fmadd_ps(v, none, poison);
        if constexpr (kCodes) {
            const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(c));
            full ? _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bytes)
                 : _mm_mask_storeu_epi8(out + i, lanes, bytes);
        } else {
            const __m512 y = _mm512_mul_ps(_mm512_sub_ps(c, zero), scale);
            full ? _mm512_storeu_ps(out + i, y) : _mm512_mask_storeu_ps(out + i, lanes, y);
        }
        for (left -= 16; left <= 0; left += q.group_size) ++group;
    }
    return _mm512_cmp_ps_mask(poison, poison, _CMP_UNORD_Q) == 0;
}

// Codes where no vector holds two groups: what belongs to a group stays in registers.
QDIT_AVX512_INLINE bool codes_of_whole_vectors(const float* x, const Quantizer& q, const Groups& g, uint8_t* out) {
    const __m512 levels = _mm512_set1_ps(q.levels), none = _mm512_setzero_ps();
    __m512 poison = none;
    for (int64_t group = 0; group < q.groups; ++group) {
        const __m512 scale = _mm512_set1_ps(g.scale[group]), zero = _mm512_set1_ps(g.zero[group]);
        const __m512 inverse = _mm512_set1_ps(g.inverse[group]);
        for (const float* end = x + q.group_size; x < end; x += 16, out += 16) {
            const __m512 v = _mm512_loadu_ps(x);
            poison = _mm512_fmadd_ps(v, none, poison);
            const __m512i whole = _mm512_cvtps_epi32(code(v, scale, zero, inverse, levels));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(whole));
        }
    }
    return _mm512_cmp_ps_mask(poison, poison, _CMP_UNORD_Q) == 0;
}

QDIT_AVX512 bool codes(const float* x, const Quantizer& q, const Groups& g, uint8_t* out) {
    return q.group_size % 16 == 0 ? codes_of_whole_vectors(x, q, g, out) : emit<true>(x, q, g, out);
}

QDIT_AVX512 bool values(const float* x, const Quantizer& q, const Groups& g, float* out) {
    return emit<false>(x, q, g, out);
}

// Both steps of a byte of 4-bit weights at once.
QDIT_AVX512 void unpack(const PackedChunk& chunk, int8_t* out) {
    if (chunk.storage != 4 || chunk.group_steps % 2) return unpack_generic(chunk, out);
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t* codes = chunk.codes;
    for (int64_t group = 0; group < chunk.groups; ++group) {
        __m512i zeros[3];
        for (int v = 0; v < 3; ++v) {
            const auto* at = reinterpret_cast<const __m128i*>(chunk.zeros + group * kColumns + 16 * v);
            const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(at));
            zeros[v] = _mm512_mullo_epi32(wide, _mm512_set1_epi32(0x01010101));
        }
        for (int64_t step = 0; step < chunk.group_steps; step += 2, codes += kBytes, out += 2 * kBytes) {
            for (int v = 0; v < 3; ++v) {
                const __m512i both = _mm512_loadu_si512(codes + 64 * v);
                const __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
                _mm512_storeu_si512(out + 64 * v, _mm512_sub_epi8(_mm512_and_si512(both, low), zeros[v]));
                _mm512_storeu_si512(out + kBytes + 64 * v, _mm512_sub_epi8(second, zeros[v]));
            }
        }
    }
}

QDIT_AVX512 bool finish(const float* part, int64_t columns, bool first, bool last, const float* bias, float* y) {
    return finish_generic(part, columns, first, last, bias, y);
}

constexpr int kVectors = kColumns / 16;

template <int kRows, bool kZeros>
QDIT_AVX512_INLINE void sum_groups(const Tile& t, __m512 (&parts)[kRows][kVectors]) {
    for (auto& row : parts) for (auto& part : row) part = _mm512_setzero_ps();
    const int8_t* weight = t.weight;
    const uint8_t* codes = t.codes;
    for (int64_t group = 0; group < t.chunk_groups; ++group) {
        __m512i sums[kRows][kVectors];
        const int64_t column = group * kColumns;
        for (int v = 0; v < kVectors; ++v) {
            const __m512i weight_sums = _mm512_loadu_si512(t.weight_sums + column + 16 * v);
            for (int r = 0; r < kRows; ++r) {
                sums[r][v] = _mm512_setzero_si512();
                dot_words(sums[r][v], _mm512_set1_epi32(t.zeros[r * t.groups + group]), weight_sums);
                if constexpr (kZeros) {
                    dot_words(sums[r][v], _mm512_set1_epi32(t.totals[r * t.groups + group]),
                              _mm512_loadu_si512(t.weight_zeros + column + 16 * v));
                }
            }
        }
        // gcc leaves this loop as it stands, clang unrolls it: 3 to 8 % of the whole at groups of 32 to 288.
#pragma GCC unroll 4
        for (int64_t step = 0; step < t.group_steps; ++step, codes += 4, weight += kBytes) {
            const __m512i w0 = _mm512_loadu_si512(weight), w1 = _mm512_loadu_si512(weight + 64);
            const __m512i w2 = _mm512_loadu_si512(weight + 128);
            for (int r = 0; r < kRows; ++r) {
                int32_t four;
                std::memcpy(&four, codes + r * t.width, 4);
                const __m512i a = _mm512_set1_epi32(four);
                dot_bytes(sums[r][0], a, w0);
                dot_bytes(sums[r][1], a, w1);
                dot_bytes(sums[r][2], a, w2);
            }
        }
        for (int v = 0; v < kVectors; ++v) {
            const __m512 weight_scale = _mm512_loadu_ps(t.weight_scale + column + 16 * v);
            for (int r = 0; r < kRows; ++r) {
                const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), weight_scale);
                const __m512 scale = _mm512_set1_ps(t.scale[r * t.groups + group]);
                parts[r][v] = _mm512_fmadd_ps(scaled, scale, parts[r][v]);
            }
        }
    }
}

template <int kRows, bool kZeros>
QDIT_AVX512 void tile_rows(const Tile& t) {
    __m512 parts[kRows][kVectors];
    sum_groups<kRows, kZeros>(t, parts);
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(t.part + r * kColumns + 16 * v, parts[r][v]);
    }
}

// The sums go to y while they are in registers; its lines are fetched while the sums are computed.
template <int kRows, bool kZeros>
QDIT_AVX512 bool tile_rows_to(const Tile& t, const Output& o) {
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) __builtin_prefetch(o.y + r * o.stride + 16 * v, 1);
    }
    __m512 parts[kRows][kVectors];
    sum_groups<kRows, kZeros>(t, parts);
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    __mmask16 bad = 0;
    for (int v = 0; v < kVectors; ++v) {
        const __m512 bias = o.last && o.bias ? _mm512_loadu_ps(o.bias + 16 * v) : _mm512_setzero_ps();
        for (int r = 0; r < kRows; ++r) {
            float* y = o.y + r * o.stride + 16 * v;
            __m512 sum = o.first ? parts[r][v] : _mm512_add_ps(_mm512_loadu_ps(y), parts[r][v]);
            if (o.last) {
                if (o.bias) sum = _mm512_add_ps(sum, bias);
                const __m512i bits = _mm512_and_si512(_mm512_castps_si512(sum), exponent);
                bad |= _mm512_cmpeq_epi32_mask(bits, exponent);
            }
            _mm512_storeu_ps(y, sum);
        }
    }
    return bad == 0;
}

template <int kRows>
void tile_any(const Tile& t) {
    t.weight_zeros ? tile_rows<kRows, true>(t) : tile_rows<kRows, false>(t);
}

template <int kRows>
bool tile_any_to(const Tile& t, const Output& o) {
    return t.weight_zeros ? tile_rows_to<kRows, true>(t, o) : tile_rows_to<kRows, false>(t, o);
}

bool tile_to(int rows, const Tile& t, const Output& o) {
    switch (rows) {
        case 1: return tile_any_to<1>(t, o);
        case 2: return tile_any_to<2>(t, o);
        case 3: return tile_any_to<3>(t, o);
        default: return tile_any_to<4>(t, o);
    }
}

void tile(int rows, const Tile& t) {
    static_assert(kTileRows == 4, "one case per number of rows");
    switch (rows) {
        case 1: return tile_any<1>(t);
        case 2: return tile_any<2>(t);
        case 3: return tile_any<3>(t);
        default: return tile_any<4>(t);
    }
}

}  // namespace

const Kernel* avx512_kernel() {
    static const Kernel kernel{16, extremes, parameters, codes, values, unpack, tile, finish, tile_to};
    static const Processor processor;
    return processor.avx512vnni ? &kernel : nullptr;
}

}  // namespace qdit

#else
namespace qdit {
const Kernel* avx512_kernel() { return nullptr; }
}  // namespace qdit
#endif
