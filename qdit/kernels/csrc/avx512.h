// Dot products of AVX512-VNNI, which the variants for AVX-512 and for AMX share.
#pragma once
#include <immintrin.h>

#define QDIT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))
#define QDIT_AVX512_INLINE QDIT_AVX512 static inline __attribute__((always_inline))

namespace qdit {

// gcc copies registers around its intrinsics for these two; clang does not (spec of the kernels, section 3b).
QDIT_AVX512_INLINE void dot_bytes(__m512i& sum, __m512i unsigned8, __m512i signed8) {
#if defined(__clang__)
    sum = _mm512_dpbusd_epi32(sum, unsigned8, signed8);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned8), "v"(signed8));
#endif
}

QDIT_AVX512_INLINE void dot_words(__m512i& sum, __m512i a, __m512i b) {
#if defined(__clang__)
    sum = _mm512_dpwssd_epi32(sum, a, b);
#else
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
}

}  // namespace qdit
