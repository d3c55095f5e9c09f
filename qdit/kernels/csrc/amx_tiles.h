// The eight tile registers of AMX: 16 rows of 64 bytes each. QDIT_AMX_EMULATED replaces the instructions by plain C++ with
// the same results (Intel 64 manual, volume 2, LDTILECFG, TILELOADD, TDPBUSD). It counts what a processor would refuse.
#pragma once
#include <cstdint>

#if defined(QDIT_AMX_EMULATED)
#include <atomic>
#include <cstring>
#define QDIT_TILES
#else
#define QDIT_TILES __attribute__((target("amx-tile,amx-int8")))
#endif
#define QDIT_TILES_INLINE QDIT_TILES static inline __attribute__((always_inline))

namespace qdit {
namespace tiles {

constexpr int kRegisters = 8, kRows = 16, kRowBytes = 64;

// Shape of each register, as LDTILECFG reads it.
struct alignas(64) Shapes {
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};  // of a row
    uint8_t rows[16] = {};

    void set(int tile, int64_t count, int64_t row_bytes) {
        rows[tile] = static_cast<uint8_t>(count);
        bytes[tile] = static_cast<uint16_t>(row_bytes);
    }
};
static_assert(sizeof(Shapes) == 64, "LDTILECFG reads 64 bytes");

#if defined(QDIT_AMX_EMULATED)

struct Registers {
    Shapes shapes;
    bool configured = false;
    uint8_t data[kRegisters][kRows][kRowBytes];

    bool has(int tile) const { return configured && shapes.rows[tile] > 0 && shapes.bytes[tile] % 4 == 0; }
};

inline std::atomic<int64_t>& faults() {
    static std::atomic<int64_t> count{0};
    return count;
}

inline bool refused(bool wrong) {
    if (wrong) ++faults();
    return wrong;
}

inline Registers& registers() {
    thread_local Registers all;
    return all;
}

inline void configure(const Shapes& shapes) {
    bool wrong = shapes.palette != 1 || shapes.first_row != 0;
    for (const uint8_t byte : shapes.reserved) wrong = wrong || byte != 0;
    for (int tile = 0; tile < 16; ++tile) {
        const int rows = shapes.rows[tile], bytes = shapes.bytes[tile];
        wrong = wrong || rows > kRows || bytes > kRowBytes || (rows == 0) != (bytes == 0) || (tile >= kRegisters && rows);
    }
    Registers& all = registers();
    all.configured = !refused(wrong);
    all.shapes = shapes;
    std::memset(all.data, 0, sizeof all.data);
}

inline void release() { registers().configured = false; }

template <int kTile>
void zero() {
    if (refused(!registers().has(kTile))) return;
    std::memset(registers().data[kTile], 0, sizeof registers().data[kTile]);
}

template <int kTile>
void load(const void* from, int64_t stride) {
    Registers& all = registers();
    if (refused(!all.has(kTile))) return;
    std::memset(all.data[kTile], 0, sizeof all.data[kTile]);
    for (int row = 0; row < all.shapes.rows[kTile]; ++row) {
        std::memcpy(all.data[kTile][row], static_cast<const uint8_t*>(from) + row * stride, all.shapes.bytes[kTile]);
    }
}

template <int kTile>
void store(void* to, int64_t stride) {
    const Registers& all = registers();
    if (refused(!all.has(kTile))) return;
    for (int row = 0; row < all.shapes.rows[kTile]; ++row) {
        std::memcpy(static_cast<uint8_t*>(to) + row * stride, all.data[kTile][row], all.shapes.bytes[kTile]);
    }
}

// kSum (m x n 32-bit) += kA (m x 4k unsigned bytes) kB (k x n quadruples of signed bytes); sums wrap around.
template <int kSum, int kA, int kB>
void multiply() {
    Registers& all = registers();
    const Shapes& s = all.shapes;
    if (refused(!all.has(kSum) || !all.has(kA) || !all.has(kB) || kSum == kA || kSum == kB || kA == kB ||
                s.rows[kA] != s.rows[kSum] || s.bytes[kA] != 4 * s.rows[kB] || s.bytes[kB] != s.bytes[kSum])) {
        return;
    }
    for (int m = 0; m < s.rows[kSum]; ++m) {
        for (int n = 0; n < s.bytes[kSum] / 4; ++n) {
            uint32_t sum;
            std::memcpy(&sum, all.data[kSum][m] + 4 * n, 4);
            for (int k = 0; k < s.rows[kB]; ++k) {
                for (int i = 0; i < 4; ++i) {
                    const int32_t weight = static_cast<int8_t>(all.data[kB][k][4 * n + i]);
                    sum += static_cast<uint32_t>(all.data[kA][m][4 * k + i] * weight);
                }
            }
            std::memcpy(all.data[kSum][m] + 4 * n, &sum, 4);
        }
    }
}

#else

QDIT_TILES_INLINE void configure(const Shapes& shapes) { __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); }

QDIT_TILES_INLINE void release() { __asm__ volatile("tilerelease"); }

template <int kTile>
QDIT_TILES_INLINE void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kTile>
QDIT_TILES_INLINE void load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride) : "memory");
}

template <int kTile>
QDIT_TILES_INLINE void store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(stride) : "memory");
}

template <int kSum, int kA, int kB>
QDIT_TILES_INLINE void multiply() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

#endif

}  // namespace tiles
}  // namespace qdit
