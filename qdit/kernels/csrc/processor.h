// What the processor and the operating system support. Not __builtin_cpu_supports: as zig links it, it always says no.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>

namespace qdit {

struct Processor {
    bool avx2 = false;
    bool avx512vnni = false;

    Processor() {
        unsigned a, b, c, d, saved, high;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = c >> 12 & 1, saves = c >> 27 & 1, avx = c >> 28 & 1;
        if (!fma || !saves || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
        avx2 = (saved & 0x06) == 0x06 && (b >> 5 & 1);
        const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
        avx512vnni = avx2 && (saved & 0xe6) == 0xe6 && (b & f_dq_bw_vl) == f_dq_bw_vl && (c >> 11 & 1);
    }
};

}  // namespace qdit
#endif
