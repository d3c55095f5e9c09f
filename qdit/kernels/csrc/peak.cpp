// Register-only loops that measure what the processor can do at most; `qdit bench kernels` times them.
// QDIT_VNNI_AS_EVEX encodes the loop of AVX-VNNI for AVX512-VNNI with VL, so that tests can run it there.
#include <cstdint>

#include "processor.h"

#define QDIT_EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__x86_64__)
#if defined(QDIT_VNNI_AS_EVEX) || (defined(__has_include) && __has_include(<avxvnniintrin.h>))
#define QDIT_HAS_AVXVNNI
#endif
#include <immintrin.h>

namespace {

constexpr int kChains = 24;      // of 32 registers
constexpr int kChains256 = 12;   // of 16 registers; a product takes at most 5 cycles, and 2 begin in a cycle

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

#if defined(QDIT_HAS_AVXVNNI)
#if defined(QDIT_VNNI_AS_EVEX)
#define QDIT_VNNI __attribute__((target("avx2,fma,avx512f,avx512vl,avx512vnni")))
#define QDIT_DOT_BYTES _mm256_dpbusd_epi32
#else
#define QDIT_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define QDIT_DOT_BYTES _mm256_dpbusd_avx_epi32
#endif

QDIT_VNNI double dots256(int64_t rounds) {
    __m256i sums[kChains256];
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
    __asm__ volatile("" : "+x"(a), "+x"(b));  // in registers, and unknown to the compiler
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (auto& sum : sums) {
            sum = QDIT_DOT_BYTES(sum, a, b);
            __asm__ volatile("" : "+x"(sum));
        }
    }
    __m256i total = sums[0];
#pragma GCC unroll 12
    for (int c = 1; c < kChains256; ++c) total = _mm256_add_epi32(total, sums[c]);
    return _mm256_extract_epi32(total, 0) ? 2.0 * 32 * kChains256 * static_cast<double>(rounds) : 0;
}

QDIT_VNNI double products256(int64_t rounds) {
    __m256 sums[kChains256];
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(1);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (auto& sum : sums) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    }
    __m256 total = sums[0];
#pragma GCC unroll 12
    for (int c = 1; c < kChains256; ++c) total = _mm256_add_ps(total, sums[c]);
    return _mm256_cvtss_f32(total) > 0 ? 2.0 * 8 * kChains256 * static_cast<double>(rounds) : 0;
}
#endif

}  // namespace

// Operations that were done: 8-bit dot products (kind 0) or float32 fused multiply-adds (kind 1), with `bits` of 512
// (AVX512-VNNI) or 256 (AVX-VNNI) at a time; 0 where the processor has not got the instructions.
QDIT_EXPORT double qdit_peak(int bits, int kind, int64_t rounds) {
    static const qdit::Processor processor;
    if (bits == 512 && processor.avx512vnni) return kind == 0 ? dots(rounds) : products(rounds);
#if defined(QDIT_HAS_AVXVNNI)
#if defined(QDIT_VNNI_AS_EVEX)
    const bool runs = processor.avx512vnni;
#else
    const bool runs = processor.avxvnni;
#endif
    if (bits == 256 && runs) return kind == 0 ? dots256(rounds) : products256(rounds);
#endif
    return 0;
}
#else
QDIT_EXPORT double qdit_peak(int, int, int64_t) { return 0; }
#endif
