// The micro-tile of AVX2: integer sums in 16 bits, then in 32. csrc/avx2.cpp quantizes and unpacks what it multiplies.
#pragma once
#include <immintrin.h>

#include "generic.h"

#define QDIT_AVX2 __attribute__((target("avx2,fma")))
#define QDIT_AVX2_INLINE QDIT_AVX2 static inline __attribute__((always_inline))

namespace qdit {
namespace {

QDIT_AVX2_INLINE __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

QDIT_AVX2_INLINE __m256i broadcast(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

QDIT_AVX2 void unpack(const PackedChunk& chunk, int8_t* out) { unpack_generic(chunk, out); }

constexpr int kVectors = 2;  // of 8 columns: a micro-tile has 16 of the panel's 48

// What the zero points take off a group's sums.
template <int kRows>
QDIT_AVX2_INLINE void correct(const Tile& t, int64_t group, int64_t column, __m256i (&sums)[kRows][kVectors]) {
    for (int r = 0; r < kRows; ++r) {
        const int64_t at = r * t.groups + group;
        const __m256i zeros = _mm256_set1_epi32(t.zeros[at]);
        for (int v = 0; v < kVectors; ++v) {
            const __m256i held = _mm256_madd_epi16(zeros, load(t.weight_sums + column + 8 * v));
            sums[r][v] = _mm256_add_epi32(sums[r][v], held);
        }
        if (t.weight_zeros != nullptr) {
            const __m256i totals = _mm256_set1_epi32(t.totals[at]);
            for (int v = 0; v < kVectors; ++v) {
                const __m256i held = _mm256_madd_epi16(totals, load(t.weight_zeros + column + 8 * v));
                sums[r][v] = _mm256_add_epi32(sums[r][v], held);
            }
        }
    }
}

// As intrinsics, gcc computes all products of an unrolled loop first, and keeps them in memory.
QDIT_AVX2_INLINE void add_products(__m256i& words, __m256i codes, __m256i weights) {
    __m256i products;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
                     : "+x"(words), "=&x"(products)
                     : "x"(codes), "x"(weights));
}

// Sums of `steps` products of 4 bytes in 16 bits. vpmaddubsw adds two of them, and centered weights of 4 bits leave room
// for eight steps, 2 * 255 * 8 * 8 < 32767, those of 6 bits for two, 2 * 255 * 32 * 2 < 32767.
template <int kRows, int kSteps, bool kFirst = false>
QDIT_AVX2_INLINE void advance(__m256i (&sums)[kRows][kVectors], const uint8_t* codes, int64_t width, const int8_t* w) {
    __m256i words[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
        const __m256i a = broadcast(codes + r * width);
        for (int v = 0; v < kVectors; ++v) words[r][v] = _mm256_maddubs_epi16(a, load(w + 32 * v));
    }
#pragma GCC unroll 7
    for (int s = 1; s < kSteps; ++s) {
        const __m256i w0 = load(w + s * kBytes), w1 = load(w + s * kBytes + 32);
        for (int r = 0; r < kRows; ++r) {
            const __m256i a = broadcast(codes + r * width + 4 * s);
            add_products(words[r][0], a, w0);
            add_products(words[r][1], a, w1);
        }
    }
    const __m256i ones = _mm256_set1_epi16(1);
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
            const __m256i wide = _mm256_madd_epi16(words[r][v], ones);
            sums[r][v] = kFirst ? wide : _mm256_add_epi32(sums[r][v], wide);
        }
    }
}

// One step of weights of 8 bits, which leave no room: they are widened.
template <int kRows>
QDIT_AVX2_INLINE void advance_wide(__m256i (&sums)[kRows][kVectors], const uint8_t* codes, int64_t width,
                                   const int8_t* w) {
    for (int v = 0; v < kVectors; ++v) {
        const __m256i both = load(w + 32 * v), odd = _mm256_srai_epi16(both, 8);
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8);
        for (int r = 0; r < kRows; ++r) {
            const __m256i a = broadcast(codes + r * width);
            const __m256i low = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)), even);
            const __m256i high = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), odd);
            sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_add_epi32(low, high));
        }
    }
}

// The products of one group, kSteps at once; 0 of them for weights of 8 bits.
template <int kRows, int kSteps>
QDIT_AVX2_INLINE void sum_group(const Tile& t, const uint8_t* codes, const int8_t* w, __m256i (&sums)[kRows][kVectors]) {
    int64_t left = t.group_steps;
    if (kSteps && left >= kSteps) {
        advance<kRows, kSteps, true>(sums, codes, t.width, w);
        left -= kSteps, codes += 4 * kSteps, w += kSteps * kBytes;
    } else {
        for (auto& row : sums) for (auto& sum : row) sum = _mm256_setzero_si256();
    }
    if constexpr (kSteps == 0) {
        for (; left; --left, codes += 4, w += kBytes) advance_wide<kRows>(sums, codes, t.width, w);
    } else {
        for (; left >= kSteps; left -= kSteps, codes += 4 * kSteps, w += kSteps * kBytes) {
            advance<kRows, kSteps>(sums, codes, t.width, w);
        }
        if (kSteps > 4 && left & 4) {
            advance<kRows, 4>(sums, codes, t.width, w);
            codes += 16;
            w += 4 * kBytes;
        }
        if (kSteps > 2 && left & 2) {
            advance<kRows, 2>(sums, codes, t.width, w);
            codes += 8;
            w += 2 * kBytes;
        }
        if (left & 1) advance<kRows, 1>(sums, codes, t.width, w);
    }
}

// 16 of the panel's 48 columns, from column `first`.
template <int kRows, int kSteps>
QDIT_AVX2 void tile_columns(const Tile& t, int first) {
    const int8_t* weight = t.weight + 4 * first;
    const uint8_t* codes = t.codes;
    __m256 parts[kRows][kVectors];
    for (auto& row : parts) for (auto& part : row) part = _mm256_setzero_ps();
    for (int64_t group = 0; group < t.chunk_groups; ++group) {
        const int64_t column = group * kColumns + first;
        __m256i sums[kRows][kVectors];
        sum_group<kRows, kSteps>(t, codes, weight, sums);
        correct<kRows>(t, group, column, sums);
        codes += 4 * t.group_steps;
        weight += t.group_steps * kBytes;
        for (int v = 0; v < kVectors; ++v) {
            const __m256 weight_scale = _mm256_loadu_ps(t.weight_scale + column + 8 * v);
            for (int r = 0; r < kRows; ++r) {
                const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][v]), weight_scale);
                const __m256 scale = _mm256_broadcast_ss(t.scale + r * t.groups + group);
                parts[r][v] = _mm256_fmadd_ps(scaled, scale, parts[r][v]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) _mm256_storeu_ps(t.part + r * kColumns + first + 8 * v, parts[r][v]);
    }
}

template <int kRows>
void tile_rows(const Tile& t) {
    for (int first = 0; first < kColumns; first += 16) {
        if (t.storage == 8) tile_columns<kRows, 0>(t, first);
        else if (t.storage == 6 || t.group_steps < 4) tile_columns<kRows, 2>(t, first);
        else if (t.group_steps % 8 == 0) tile_columns<kRows, 8>(t, first);
        else tile_columns<kRows, 4>(t, first);
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

// The lines of y are fetched while the sums are computed.
QDIT_AVX2 bool tile_to(int rows, const Tile& t, const Output& o) {
    for (int r = 0; r < rows; ++r) {
        for (int n = 0; n < kColumns; n += 16) __builtin_prefetch(o.y + r * o.stride + n, 1);
    }
    tile(rows, t);
    bool finite = true;
    for (int r = 0; r < rows; ++r) {
        finite &= finish_generic(t.part + r * kColumns, kColumns, o.first, o.last, o.bias, o.y + r * o.stride);
    }
    return finite;
}

}  // namespace
}  // namespace qdit
