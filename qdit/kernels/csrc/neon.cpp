// ARM with the dot product of bytes, or of unsigned by signed bytes (i8mm). In the order of operations of a sum it
// equals the scalar variant bit for bit. Quantizing is the scalar variant's code: every 64-bit ARM processor has NEON,
// so the compiler vectorizes it.
#include "generic.h"
#include "processor.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define QDIT_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#define QDIT_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#define QDIT_NEON_INLINE static inline __attribute__((always_inline))

namespace qdit {
namespace {

constexpr int kVectors = 4;                // of 4 columns: a micro-tile has 16 of the panel's 48
constexpr int kWidth = 4 * kVectors;

// Two 16-bit halves, low + 128 high: -sum of a group's weights, or -zero.
QDIT_NEON_INLINE int32x4_t joined(const int32_t* pairs) {
    const int32x4_t both = vld1q_s32(pairs);
    return vaddq_s32(vshrq_n_s32(vshlq_n_s32(both, 16), 16), vshlq_n_s32(vshrq_n_s32(both, 16), 7));
}

// The integers every sum of a group starts with. Signed codes are code - 128, and so is their zero point.
template <int kRows>
QDIT_NEON_INLINE void start(const Tile& t, int64_t group, int first, int32_t offset, int32x4_t (&sums)[kRows][kVectors]) {
    const int64_t column = group * kColumns + first;
    for (int v = 0; v < kVectors; ++v) {
        const int32x4_t weight_sums = joined(t.weight_sums + column + 4 * v);
        for (int r = 0; r < kRows; ++r) {
            const int32_t zero = t.zeros[r * t.groups + group] & 0xffff;
            sums[r][v] = vmulq_n_s32(weight_sums, zero - offset);
        }
        if (t.weight_zeros == nullptr) continue;
        const int32x4_t pairs = vld1q_s32(t.weight_zeros + column + 4 * v);
        const int32x4_t weight_zeros = vshrq_n_s32(vshlq_n_s32(pairs, 16), 16);  // -zero; the other half is 128 of it
        for (int r = 0; r < kRows; ++r) {
            const int32_t pair = t.totals[r * t.groups + group];
            const int32_t total = static_cast<int16_t>(pair & 0xffff) + (pair >> 16) * 128;
            sums[r][v] = vmlaq_n_s32(sums[r][v], weight_zeros, total);
        }
    }
}

template <int kRows>
QDIT_NEON_INLINE void flush(const Tile& t, int64_t group, int first, const int32x4_t (&sums)[kRows][kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
        const float32x4_t weight_scale = vld1q_f32(t.weight_scale + group * kColumns + first + 4 * v);
        for (int r = 0; r < kRows; ++r) {
            float* part = t.part + r * kColumns + first + 4 * v;
            const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sums[r][v]), weight_scale);
            const float32x4_t before = group == 0 ? vdupq_n_f32(0) : vld1q_f32(part);
            vst1q_f32(part, vfmaq_f32(before, scaled, vdupq_n_f32(t.scale[r * t.groups + group])));
        }
    }
}

QDIT_NEON_INLINE uint8x16_t four_codes(const uint8_t* codes) {
    uint32_t four;
    std::memcpy(&four, codes, 4);
    return vreinterpretq_u8_u32(vdupq_n_u32(four));
}

// The two variants differ in one instruction. Targets are per function, so the loop is written once, as a macro.
#define QDIT_TILE_COLUMNS(NAME, TARGET, OFFSET, PRODUCT)                                                           \
    template <int kRows>                                                                                           \
    TARGET void NAME(const Tile& t, int first) {                                                                   \
        const int8_t* weight = t.weight + 4 * first;                                                               \
        const uint8_t* codes = t.codes;                                                                            \
        for (int64_t group = 0; group < t.chunk_groups; ++group) {                                                 \
            int32x4_t sums[kRows][kVectors];                                                                       \
            start<kRows>(t, group, first, OFFSET, sums);                                                           \
            for (int64_t step = 0; step < t.group_steps; ++step, codes += 4, weight += kBytes) {                   \
                int8x16_t w[kVectors];                                                                             \
                for (int v = 0; v < kVectors; ++v) w[v] = vld1q_s8(weight + 16 * v);                               \
                for (int r = 0; r < kRows; ++r) {                                                                  \
                    const uint8x16_t a = four_codes(codes + r * t.width);                                          \
                    for (int v = 0; v < kVectors; ++v) sums[r][v] = PRODUCT(sums[r][v], a, w[v]);                  \
                }                                                                                                  \
            }                                                                                                      \
            flush<kRows>(t, group, first, sums);                                                                   \
        }                                                                                                          \
    }

#define QDIT_SIGNED(sum, a, w) vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(a, vdupq_n_u8(128))), w)
#define QDIT_MIXED(sum, a, w) vusdotq_s32(sum, a, w)

QDIT_TILE_COLUMNS(columns_dot, QDIT_DOT, 128, QDIT_SIGNED)
QDIT_TILE_COLUMNS(columns_i8mm, QDIT_I8MM, 0, QDIT_MIXED)

template <bool kMixed, int kRows>
void tile_rows(const Tile& t) {
    for (int first = 0; first < kColumns; first += kWidth) {
        if constexpr (kMixed) columns_i8mm<kRows>(t, first);
        else columns_dot<kRows>(t, first);
    }
}

template <bool kMixed>
void tile(int rows, const Tile& t) {
    static_assert(kTileRows == 4, "one case per number of rows");
    switch (rows) {
        case 1: return tile_rows<kMixed, 1>(t);
        case 2: return tile_rows<kMixed, 2>(t);
        case 3: return tile_rows<kMixed, 3>(t);
        default: return tile_rows<kMixed, 4>(t);
    }
}

template <bool kMixed>
const Kernel* kernel_with() {
    static const Kernel& s = scalar_kernel();
    static const Kernel kernel{s.lanes, s.extremes, s.parameters, s.codes, s.values, s.unpack, tile<kMixed>, s.finish};
    return &kernel;
}

const Processor& processor() {
    static const Processor found;
    return found;
}

}  // namespace

const Kernel* neon_dot_kernel() { return processor().dot_product ? kernel_with<false>() : nullptr; }
const Kernel* neon_i8mm_kernel() { return processor().i8mm ? kernel_with<true>() : nullptr; }

}  // namespace qdit

#else
namespace qdit {
const Kernel* neon_dot_kernel() { return nullptr; }
const Kernel* neon_i8mm_kernel() { return nullptr; }
}  // namespace qdit
#endif
