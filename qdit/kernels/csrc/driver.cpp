// The list of variants, and the C interface of the quantizers and transforms.
#include "rows.h"

namespace qdit {

const Kernel* kernel_of(int variant) {
    switch (variant) {
        case kScalar: return &scalar_kernel();
        case kAvx2: return avx2_kernel();
        case kAvxVnni: return avxvnni_kernel();
        case kAvx512Vnni: return avx512_kernel();
        case kAmx: return amx_kernel();
        case kNeonDot: return neon_dot_kernel();
        case kNeonI8mm: return neon_i8mm_kernel();
        default: return nullptr;
    }
}

}  // namespace qdit

using namespace qdit;

// Bit v is set where variant v (see Variant) runs here.
QDIT_EXPORT int qdit_variants() {
    int bits = 0;
    for (int variant = 0; variant < kVariants; ++variant) bits |= (kernel_of(variant) != nullptr) << variant;
    return bits;
}

// Raised with every change of an argument list.
QDIT_EXPORT int qdit_version() { return 6; }

// Codes (rows, width), scale and zero (rows, groups) of x; what qdit_grouped_linear multiplies.
QDIT_EXPORT int qdit_quantize_groups(int variant, const float* x, int64_t rows, int64_t width, int64_t group_size,
                                     int bits, int symmetric, uint8_t* codes, float* scale, float* zero) {
    const Kernel* kernel = kernel_of(variant);
    Quantizer q;
    if (!kernel || !makes_quantizer(width, group_size, bits, symmetric, q) || group_size % 4) return kBadArgument;
    return over_rows(rows, 1, [&](int64_t begin, int64_t end) -> int {
        const std::vector<int32_t> index = group_index(q, kernel->lanes);
        Row row(q, index.data());
        for (int64_t r = begin; r < end; ++r) {
            kernel->extremes(x + r * width, q, row.groups);
            if (!kernel->parameters(q, row.groups)) return kNotFinite;
            if (!kernel->codes(x + r * width, q, row.groups, codes + r * width)) return kNotFinite;
            for (int64_t g = 0; g < q.groups; ++g) {
                scale[r * q.groups + g] = row.groups.scale[g];
                zero[r * q.groups + g] = row.groups.zero[g];
            }
        }
        return kOk;
    });
}

// y (rows, width) = x quantized and dequantized with a range of its own for each (row, group).
QDIT_EXPORT int qdit_fake_quantize_groups(int variant, const float* x, int64_t rows, int64_t width, int64_t group_size,
                                          int bits, int symmetric, int threads, float* y) {
    const Kernel* kernel = kernel_of(variant);
    Quantizer q;
    if (!kernel || !makes_quantizer(width, group_size, bits, symmetric, q) || group_size % 4) return kBadArgument;
    return over_rows(rows, threads, [&](int64_t begin, int64_t end) -> int {
        const std::vector<int32_t> index = group_index(q, kernel->lanes);
        Row row(q, index.data());
        for (int64_t r = begin; r < end; ++r) {
            kernel->extremes(x + r * width, q, row.groups);
            if (!kernel->parameters(q, row.groups)) return kNotFinite;
            if (!kernel->values(x + r * width, q, row.groups, y + r * width)) return kNotFinite;
        }
        return kOk;
    });
}

// The same with given scale and zero (groups), each for group_size consecutive columns of every row.
QDIT_EXPORT int qdit_fake_quantize_static(int variant, const float* x, int64_t rows, int64_t width, int64_t group_size,
                                          const float* scale, const float* zero, int bits, int threads, float* y) {
    const Kernel* kernel = kernel_of(variant);
    Quantizer q;
    if (!kernel || !makes_quantizer(width, group_size, bits, false, q)) return kBadArgument;
    return over_rows(rows, threads, [&](int64_t begin, int64_t end) -> int {
        const std::vector<int32_t> index = group_index(q, kernel->lanes);
        Row row(q, index.data());
        give_ranges(q, scale, zero, row.groups);
        for (int64_t r = begin; r < end; ++r) {
            if (!kernel->values(x + r * width, q, row.groups, y + r * width)) return kNotFinite;
        }
        return kOk;
    });
}

// y (rows, width) = the steps applied to x, one after the other; what qdit_grouped_linear quantizes.
QDIT_EXPORT int qdit_transform(int variant, const float* x, int64_t rows, int64_t width, int64_t count,
                               const TransformStep* steps, float* y) {
    if (!kernel_of(variant) || !fit_steps(width, count, steps)) return kBadArgument;
    return over_rows(rows, 1, [&](int64_t begin, int64_t end) -> int {
        for (int64_t r = begin; r < end; ++r) transform_row(variant, x + r * width, width, count, steps, y + r * width);
        return kOk;
    });
}
