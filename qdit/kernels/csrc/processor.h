// What the processor and the operating system support. Not __builtin_cpu_supports: as zig links it, it always says no.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>

namespace qdit {

struct Processor {
    bool avx2 = false;
    bool avxvnni = false;
    bool avx512vnni = false;
    bool amx_int8 = false;  // the process needs the kernel's permission too (amx.cpp)

    Processor() {
        unsigned a, b, c, d, saved, high;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = c >> 12 & 1, saves = c >> 27 & 1, avx = c >> 28 & 1;
        if (!fma || !saves || !avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
        avx2 = (saved & 0x06) == 0x06 && (b >> 5 & 1);
        const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
        avx512vnni = avx2 && (saved & 0xe6) == 0xe6 && (b & f_dq_bw_vl) == f_dq_bw_vl && (c >> 11 & 1);
        amx_int8 = avx512vnni && (saved & 0x60000) == 0x60000 && (d >> 24 & 1) && (d >> 25 & 1);
        avxvnni = avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
    }
};

}  // namespace qdit
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qdit {

struct Processor {
    bool dot_product = false;
    bool i8mm = false;

    Processor() {
#if defined(__linux__)
        dot_product = getauxval(AT_HWCAP) >> 20 & 1;           // HWCAP_ASIMDDP
        i8mm = dot_product && (getauxval(AT_HWCAP2) >> 13 & 1);  // HWCAP2_I8MM
#elif defined(__APPLE__)
        dot_product = has("hw.optional.arm.FEAT_DotProd");
        i8mm = dot_product && has("hw.optional.arm.FEAT_I8MM");
#endif
    }

#if defined(__APPLE__)
    static bool has(const char* name) {
        int value = 0;
        size_t size = sizeof value;
        return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
    }
#endif
};

}  // namespace qdit
#endif
