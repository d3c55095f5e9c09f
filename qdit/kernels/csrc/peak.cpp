// Register-only loops that measure what the processor can do at most; `qdit bench kernels` times them.
#include <cstdint>

#include "processor.h"

#define QDIT_EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__x86_64__)
#include <immintrin.h>

namespace {

constexpr int kChains = 24;

__attribute__((target("avx512f,avx512bw,avx512vnni"))) double dots(int64_t rounds) {
    __m512i sums[kChains];
#pragma GCC unroll 24
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
        for (auto& sum : sums) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
    __m512i total = sums[0];
#pragma GCC unroll 24
    for (int c = 1; c < kChains; ++c) total = _mm512_add_epi32(total, sums[c]);
    return _mm512_reduce_add_epi32(total) ? 2.0 * 64 * kChains * static_cast<double>(rounds) : 0;
}

__attribute__((target("avx512f"))) double products(int64_t rounds) {
    __m512 sums[kChains];
#pragma GCC unroll 24
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(1);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
        for (auto& sum : sums) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
    __m512 total = sums[0];
#pragma GCC unroll 24
    for (int c = 1; c < kChains; ++c) total = _mm512_add_ps(total, sums[c]);
    return _mm512_reduce_add_ps(total) > 0 ? 2.0 * 16 * kChains * static_cast<double>(rounds) : 0;
}

}  // namespace

// Operations that were done: 8-bit dot products (kind 0) or float32 fused multiply-adds (kind 1), 512 bits at a time;
// 0 where the processor has not got them.
QDIT_EXPORT double qdit_peak(int kind, int64_t rounds) {
    if (!qdit::Processor().avx512vnni) return 0;
    return kind == 0 ? dots(rounds) : products(rounds);
}
#else
QDIT_EXPORT double qdit_peak(int, int64_t) { return 0; }
#endif
