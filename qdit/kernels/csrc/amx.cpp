// AMX with 8-bit integers: one instruction multiplies 16 rows x 64 inputs by 64 inputs x 16 columns. What comes before and
// after it is the AVX-512 variant's; integer sums are exact, so the bits are the same.
#include "amx_tiles.h"
#include "generic.h"
#include "processor.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__has_include)
#if defined(QDIT_AMX_EMULATED) || __has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>)
#define QDIT_HAS_AMX
#endif
#endif

#if defined(QDIT_HAS_AMX)
#include <sys/syscall.h>
#include <unistd.h>

#include <initializer_list>

#include "avx512.h"

#if defined(QDIT_AMX_EMULATED)
#define QDIT_AMX QDIT_AVX512
#else
#define QDIT_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,amx-tile,amx-int8")))
#endif
#define QDIT_AMX_INLINE QDIT_AMX static inline __attribute__((always_inline))

namespace qdit {
namespace {

constexpr int kVectors = kColumns / 16;
constexpr int64_t kSteps = tiles::kRows;  // of one product: 64 inputs

// Registers: three of sums, then inputs and weights of 64 inputs, then those of the rest of a group.
enum : int { kFirst, kSecond, kThird, kInputs, kWeights, kOtherWeights, kRestInputs, kRestWeights };

tiles::Shapes shapes_of(int64_t rows, int64_t rest) {
    tiles::Shapes shapes;
    for (const int sums : {kFirst, kSecond, kThird}) shapes.set(sums, rows, tiles::kRowBytes);
    shapes.set(kInputs, rows, tiles::kRowBytes);
    for (const int weights : {kWeights, kOtherWeights}) shapes.set(weights, kSteps, tiles::kRowBytes);
    if (rest) {
        shapes.set(kRestInputs, rows, 4 * rest);
        shapes.set(kRestWeights, rest, tiles::kRowBytes);
    }
    return shapes;
}

// Sums of the products of one group: rows x 48.
QDIT_AMX_INLINE void multiply_group(const Tile& t, const uint8_t* codes, const int8_t* weight, int32_t* sums) {
    tiles::zero<kFirst>();
    tiles::zero<kSecond>();
    tiles::zero<kThird>();
    int64_t left = t.group_steps;
    for (; left >= kSteps; left -= kSteps, codes += 4 * kSteps, weight += kSteps * kBytes) {
        tiles::load<kInputs>(codes, t.width);
        tiles::load<kWeights>(weight, kBytes);
        tiles::multiply<kFirst, kInputs, kWeights>();
        tiles::load<kOtherWeights>(weight + 64, kBytes);
        tiles::multiply<kSecond, kInputs, kOtherWeights>();
        tiles::load<kWeights>(weight + 128, kBytes);
        tiles::multiply<kThird, kInputs, kWeights>();
    }
    if (left) {
        tiles::load<kRestInputs>(codes, t.width);
        tiles::load<kRestWeights>(weight, kBytes);
        tiles::multiply<kFirst, kRestInputs, kRestWeights>();
        tiles::load<kRestWeights>(weight + 64, kBytes);
        tiles::multiply<kSecond, kRestInputs, kRestWeights>();
        tiles::load<kRestWeights>(weight + 128, kBytes);
        tiles::multiply<kThird, kRestInputs, kRestWeights>();
    }
    tiles::store<kFirst>(sums, 4 * kColumns);
    tiles::store<kSecond>(sums + 16, 4 * kColumns);
    tiles::store<kThird>(sums + 32, 4 * kColumns);
}

// part += the sums of one group, without what the zero points add, times both scales.
template <bool kZeros>
QDIT_AMX_INLINE void flush_group(const Tile& t, int64_t group, int64_t rows, const int32_t* sums, float* parts) {
    for (int v = 0; v < kVectors; ++v) {
        const int64_t column = group * kColumns + 16 * v;
        const __m512 weight_scale = _mm512_loadu_ps(t.weight_scale + column);
        const __m512i weight_sums = _mm512_loadu_si512(t.weight_sums + column);
        const __m512i weight_zeros = kZeros ? _mm512_loadu_si512(t.weight_zeros + column) : _mm512_setzero_si512();
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t at = r * t.groups + group, out = r * kColumns + 16 * v;
            __m512i sum = _mm512_load_si512(sums + out);
            dot_words(sum, _mm512_set1_epi32(t.zeros[at]), weight_sums);
            if constexpr (kZeros) dot_words(sum, _mm512_set1_epi32(t.totals[at]), weight_zeros);
            const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), weight_scale);
            const __m512 before = group ? _mm512_load_ps(parts + out) : _mm512_setzero_ps();
            _mm512_store_ps(parts + out, _mm512_fmadd_ps(scaled, _mm512_set1_ps(t.scale[at]), before));
        }
    }
}

// Up to 16 rows. The sums of a group are used while the next group is multiplied: they come by way of memory.
template <bool kZeros>
QDIT_AMX void sum_groups(const Tile& t, int64_t rows, float* parts) {
    alignas(64) int32_t sums[2][tiles::kRows * kColumns];
    const uint8_t* codes = t.codes;
    const int8_t* weight = t.weight;
    for (int64_t group = 0; group < t.chunk_groups; ++group) {
        multiply_group(t, codes, weight, sums[group % 2]);
        if (group) flush_group<kZeros>(t, group - 1, rows, sums[(group - 1) % 2], parts);
        codes += 4 * t.group_steps;
        weight += t.group_steps * kBytes;
    }
    flush_group<kZeros>(t, t.chunk_groups - 1, rows, sums[(t.chunk_groups - 1) % 2], parts);
}

QDIT_AMX bool block(int64_t rows, int64_t columns, const Tile& whole, const Output& out) {
    alignas(64) float parts[tiles::kRows * kColumns];
    const int64_t rest = whole.group_steps % kSteps;
    bool finite = true;
    for (int64_t first = 0, shaped = 0; first < rows; first += tiles::kRows) {
        const int64_t count = rows - first < tiles::kRows ? rows - first : tiles::kRows;
        if (count != shaped) {
            tiles::configure(shapes_of(count, rest));
            shaped = count;
        }
        const Tile t = from_row(whole, first);
        t.weight_zeros ? sum_groups<true>(t, count, parts) : sum_groups<false>(t, count, parts);
        for (int64_t r = 0; r < count; ++r) {
            float* y = out.y + (first + r) * out.stride;
            finite &= finish_generic(parts + r * kColumns, columns, out.first, out.last, out.bias, y);
        }
    }
    tiles::release();
    return finite;
}

#if !defined(QDIT_AMX_EMULATED)
// Linux gives the registers only to a process that asked for them (Documentation/arch/x86/xstate.rst).
bool permitted() {
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}
#endif

Kernel with_block(Kernel kernel) {
    kernel.block = block;
    return kernel;
}

}  // namespace

const Kernel* amx_kernel() {
    static const Processor processor;
#if defined(QDIT_AMX_EMULATED)
    static const bool runs = processor.avx512vnni;
#else
    static const bool runs = processor.amx_int8 && permitted();
#endif
    if (!runs) return nullptr;
    static const Kernel kernel = with_block(*avx512_kernel());
    return &kernel;
}

}  // namespace qdit

#if defined(QDIT_AMX_EMULATED)
// What a processor would have refused since the library was opened.
extern "C" __attribute__((visibility("default"))) int64_t qdit_amx_faults() { return qdit::tiles::faults().load(); }
#endif

#else
namespace qdit {
const Kernel* amx_kernel() { return nullptr; }
}  // namespace qdit
#endif
