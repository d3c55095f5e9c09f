// AVX-VNNI: the dot product of bytes in 256 bits, which laptops have without AVX-512. All else is the AVX2 variant's code.
// QDIT_VNNI_AS_EVEX encodes the same instruction for AVX512-VNNI with VL, so that tests can run this file there.
#include "generic.h"
#include "processor.h"

#if defined(__x86_64__) && defined(__has_include)
#if defined(QDIT_VNNI_AS_EVEX) || __has_include(<avxvnniintrin.h>)
#define QDIT_HAS_AVXVNNI
#endif
#endif

#if defined(QDIT_HAS_AVXVNNI)
#include <immintrin.h>

#if defined(QDIT_VNNI_AS_EVEX)
#define QDIT_VNNI __attribute__((target("avx2,fma,avx512f,avx512vl,avx512vnni")))
#define QDIT_DOT_BYTES _mm256_dpbusd_epi32
#else
#define QDIT_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define QDIT_DOT_BYTES _mm256_dpbusd_avx_epi32
#endif
#define QDIT_VNNI_INLINE QDIT_VNNI static inline __attribute__((always_inline))

namespace qdit {
namespace {

constexpr int kVectors = 3;           // of 8 columns: a micro-tile has 24 of the panel's 48
constexpr int kWidth = 8 * kVectors;

QDIT_VNNI_INLINE __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

QDIT_VNNI_INLINE __m256i four_codes(const uint8_t* codes) {
    int32_t four;
    std::memcpy(&four, codes, 4);
    return _mm256_set1_epi32(four);
}

// The integers every sum of a group starts with: what the zero points take off.
template <int kRows>
QDIT_VNNI_INLINE void start(const Tile& t, int64_t group, int first, __m256i (&sums)[kRows][kVectors]) {
    const int64_t column = group * kColumns + first;
    for (int r = 0; r < kRows; ++r) {
        const int64_t at = r * t.groups + group;
        for (int v = 0; v < kVectors; ++v) {
            sums[r][v] = _mm256_madd_epi16(_mm256_set1_epi32(t.zeros[at]), load(t.weight_sums + column + 8 * v));
            if (t.weight_zeros == nullptr) continue;
            sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(_mm256_set1_epi32(t.totals[at]),
                                                                       load(t.weight_zeros + column + 8 * v)));
        }
    }
}

template <int kRows>
QDIT_VNNI_INLINE void flush(const Tile& t, int64_t group, int first, const __m256i (&sums)[kRows][kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
        const __m256 weight_scale = _mm256_loadu_ps(t.weight_scale + group * kColumns + first + 8 * v);
        for (int r = 0; r < kRows; ++r) {
            float* part = t.part + r * kColumns + first + 8 * v;
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][v]), weight_scale);
            const __m256 before = group == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(part);
            _mm256_storeu_ps(part, _mm256_fmadd_ps(scaled, _mm256_set1_ps(t.scale[r * t.groups + group]), before));
        }
    }
}

template <int kRows>
QDIT_VNNI void tile_columns(const Tile& t, int first) {
    const int8_t* weight = t.weight + 4 * first;
    const uint8_t* codes = t.codes;
    for (int64_t group = 0; group < t.chunk_groups; ++group) {
        __m256i sums[kRows][kVectors];
        start<kRows>(t, group, first, sums);
        for (int64_t step = 0; step < t.group_steps; ++step, codes += 4, weight += kBytes) {
            const __m256i w0 = load(weight), w1 = load(weight + 32), w2 = load(weight + 64);
            for (int r = 0; r < kRows; ++r) {
                const __m256i a = four_codes(codes + r * t.width);
                sums[r][0] = QDIT_DOT_BYTES(sums[r][0], a, w0);
                sums[r][1] = QDIT_DOT_BYTES(sums[r][1], a, w1);
                sums[r][2] = QDIT_DOT_BYTES(sums[r][2], a, w2);
            }
        }
        flush<kRows>(t, group, first, sums);
    }
}

template <int kRows>
void tile_rows(const Tile& t) {
    for (int first = 0; first < kColumns; first += kWidth) tile_columns<kRows>(t, first);
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

Kernel with_tile(Kernel kernel) {
    kernel.tile = tile;
    kernel.tile_to = nullptr;
    kernel.unpack_centered = nullptr;  // sums have 32 bits here
    return kernel;
}

}  // namespace

const Kernel* avxvnni_kernel() {
    static const Processor processor;
#if defined(QDIT_VNNI_AS_EVEX)
    const bool runs = processor.avx512vnni;
#else
    const bool runs = processor.avxvnni;
#endif
    if (!runs) return nullptr;
    static const Kernel kernel = with_tile(*avx2_kernel());
    return &kernel;
}

}  // namespace qdit

#else
namespace qdit {
const Kernel* avxvnni_kernel() { return nullptr; }
}  // namespace qdit
#endif
