// Blocks, threads and the C interface. Threads split rows only, so their number changes no bit.
#include <atomic>
#include <cmath>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "kernel.h"

#define QDIT_EXPORT extern "C" __attribute__((visibility("default")))

namespace qdit {
namespace {

const Kernel* kernel_of(int variant) {
    switch (variant) {
        case 0: return &scalar_kernel();
        case 1: return avx2_kernel();
        case 2: return avx512_kernel();
        default: return nullptr;
    }
}

std::vector<int32_t> group_index(const Quantizer& q, int lanes) {
    std::vector<int32_t> index(static_cast<size_t>(q.width + kPadding));
    for (int64_t i = 0; i < q.width; ++i) {
        index[i] = static_cast<int32_t>(i / q.group_size - i / lanes * lanes / q.group_size);
    }
    return index;
}

// The memory of one thread for the parameters of one row.
class Row {
  public:
    Row(const Quantizer& q, const int32_t* index) : memory_(static_cast<size_t>(5 * (q.groups + kPadding) +
                                                                               2 * (q.width / 4 + kPadding))) {
        const int64_t stride = q.groups + kPadding;
        float* at = memory_.data();
        groups = Groups{at, at + stride, at + 2 * stride, at + 3 * stride, at + 4 * stride, at + 5 * stride, index};
    }
    Groups groups;

  private:
    std::vector<float> memory_;
};

// work(first row, end row) -> Status, over threads; the largest status.
template <class Work>
int over_rows(int64_t rows, int threads, const Work& work) {
    std::atomic<int> status{kOk};
    const auto guarded = [&](int64_t begin, int64_t end) {
        int found = kFailed;
        try {
            found = work(begin, end);
        } catch (...) {
        }
        int before = status.load();
        while (before < found && !status.compare_exchange_weak(before, found)) {
        }
    };
    const int64_t parts = threads < 1 ? 1 : (threads < rows ? threads : rows);
    std::vector<std::thread> pool;
    int64_t begin = 0;
    for (int64_t part = 1; part < parts; ++part) {
        const int64_t end = rows * part / parts;
        try {
            pool.emplace_back(guarded, begin, end);
        } catch (const std::system_error&) {  // no more threads: this one does it
            guarded(begin, end);
        }
        begin = end;
    }
    guarded(begin, rows);
    for (std::thread& thread : pool) thread.join();
    return status.load();
}

bool makes_quantizer(int64_t width, int64_t group_size, int bits, bool symmetric, Quantizer& q) {
    if (width < 1 || group_size < 1 || width % group_size || bits < 2 || bits > 8) return false;
    q = Quantizer{width, group_size, width / group_size, static_cast<float>((1 << bits) - 1), symmetric};
    return true;
}

struct Linear {
    const Kernel& kernel;
    Quantizer quantizer;
    const int32_t* index;
    const float* x;
    int64_t outputs;
    int storage;
    const uint8_t* codes;
    const float* scale;
    const int32_t* sums;
    const int8_t* zeros;
    const int32_t* zero_pairs;
    const float* bias;
    float* y;

    int64_t chunk_groups() const {
        const int64_t fitting = kChunk / quantizer.group_size;
        return fitting < 1 ? 1 : (fitting > kMostGroups ? kMostGroups : fitting);
    }
    int64_t packed_bytes(int64_t groups) const {  // of one chunk of a panel
        const int64_t steps = groups * (quantizer.group_size / 4);
        return storage == 8 ? steps * kBytes : (steps + 3) / 4 * (storage == 4 ? 2 : 3) * kBytes;
    }
};

// Quantized rows of one block.
struct Block {
    std::vector<uint8_t> codes;
    std::vector<float> scale;
    std::vector<int32_t> zeros, totals;
    Block(const Quantizer& q, int64_t rows)
        : codes(rows * q.width + 64), scale(rows * q.groups), zeros(rows * q.groups), totals(rows * q.groups) {}
};

bool quantize(const Linear& l, Row& row, int64_t first, int64_t rows, Block& block) {
    const Quantizer& q = l.quantizer;
    for (int64_t r = 0; r < rows; ++r) {
        const float* x = l.x + (first + r) * q.width;
        uint8_t* codes = block.codes.data() + r * q.width;
        l.kernel.extremes(x, q, row.groups);
        if (!l.kernel.parameters(q, row.groups) || !l.kernel.codes(x, q, row.groups, codes)) return false;
        for (int64_t g = 0; g < q.groups; ++g) {
            const int32_t zero = static_cast<int32_t>(row.groups.zero[g]);
            block.scale[r * q.groups + g] = row.groups.scale[g];
            block.zeros[r * q.groups + g] = zero | zero << 23;
            if (l.zero_pairs == nullptr) continue;
            int32_t total = 0;
            for (int64_t i = 0; i < q.group_size; ++i) total += codes[g * q.group_size + i];
            total -= static_cast<int32_t>(q.group_size) * zero;
            block.totals[r * q.groups + g] = (total & 127) | static_cast<int32_t>(static_cast<uint32_t>(total >> 7) << 16);
        }
    }
    return true;
}

// One chunk of one panel for all rows of a block.
bool multiply(const Linear& l, const Block& block, int64_t first_row, int64_t rows, int64_t panel, int64_t group,
              const uint8_t* packed, int8_t* scratch) {
    const Quantizer& q = l.quantizer;
    const int64_t steps = q.group_size / 4, most = l.chunk_groups();
    const int64_t groups = q.groups - group < most ? q.groups - group : most;
    const int64_t at = (panel * q.groups + group) * kColumns, column = panel * kColumns;
    const int64_t columns = l.outputs - column < kColumns ? l.outputs - column : kColumns;
    const int8_t* weight = reinterpret_cast<const int8_t*>(packed);
    if (l.storage != 8) {
        l.kernel.unpack(PackedChunk{packed, l.zeros + at, groups, steps, l.storage}, scratch);
        weight = scratch;
    }
    alignas(64) float part[kTileRows * kColumns];
    Tile tile{nullptr, nullptr, nullptr, nullptr, q.width, q.groups, weight, l.scale + at, l.sums + at,
              l.zero_pairs ? l.zero_pairs + at : nullptr, groups, steps, l.storage, part};
    bool finite = true;
    for (int64_t r = 0; r < rows; r += kTileRows) {
        const int64_t count = rows - r < kTileRows ? rows - r : kTileRows, pair = r * q.groups + group;
        tile.codes = block.codes.data() + r * q.width + group * q.group_size;
        tile.scale = block.scale.data() + pair;
        tile.zeros = block.zeros.data() + pair;
        tile.totals = block.totals.data() + pair;
        l.kernel.tile(static_cast<int>(count), tile);
        for (int64_t i = 0; i < count; ++i) {
            float* y = l.y + (first_row + r + i) * l.outputs + column;
            finite &= l.kernel.finish(part + i * kColumns, columns, group == 0, group + groups == q.groups,
                                      l.bias ? l.bias + column : nullptr, y);
        }
    }
    return finite;
}

int linear_rows(const Linear& l, int64_t begin, int64_t end) {
    const Quantizer& q = l.quantizer;
    const int64_t most = l.chunk_groups(), panels = (l.outputs + kColumns - 1) / kColumns;
    Row row(q, l.index);
    Block block(q, end - begin < kRowBlock ? end - begin : kRowBlock);
    std::vector<int8_t> scratch(l.storage == 8 ? 0 : most * (q.group_size / 4) * kBytes);
    for (int64_t first = begin; first < end; first += kRowBlock) {
        const int64_t rows = end - first < kRowBlock ? end - first : kRowBlock;
        if (!quantize(l, row, first, rows, block)) return kNotFinite;
        const uint8_t* packed = l.codes;
        for (int64_t panel = 0; panel < panels; ++panel) {
            for (int64_t group = 0; group < q.groups; group += most) {
                if (!multiply(l, block, first, rows, panel, group, packed, scratch.data())) return kNotFinite;
                packed += l.packed_bytes(q.groups - group < most ? q.groups - group : most);
            }
        }
    }
    return kOk;
}

}  // namespace
}  // namespace qdit

using namespace qdit;

// Bit v is set where variant v (0 scalar, 1 AVX2, 2 AVX512-VNNI) runs on this processor.
QDIT_EXPORT int qdit_variants() { return 1 | (avx2_kernel() ? 2 : 0) | (avx512_kernel() ? 4 : 0); }

// Raised with every change of an argument list.
QDIT_EXPORT int qdit_version() { return 1; }

// y (rows, outputs) = quantized x (rows, width) times the packed weight, + bias (outputs) or null.
QDIT_EXPORT int qdit_grouped_linear(int variant, const float* x, int64_t rows, int64_t width, int64_t outputs,
                                    int64_t group_size, int storage, const uint8_t* codes, const float* scale,
                                    const int32_t* sums, const int8_t* zeros, const int32_t* zero_pairs,
                                    const float* bias, int bits, int symmetric, int threads, float* y) {
    const Kernel* kernel = kernel_of(variant);
    Quantizer q;
    if (!kernel || !makes_quantizer(width, group_size, bits, symmetric, q) || group_size % 4 || outputs < 1 ||
        (storage != 4 && storage != 6 && storage != 8)) {
        return kBadArgument;
    }
    return over_rows(rows, threads, [&](int64_t begin, int64_t end) -> int {
        const std::vector<int32_t> index = group_index(q, kernel->lanes);
        return linear_rows(Linear{*kernel, q, index.data(), x, outputs, storage, codes, scale, sums, zeros,
                                  zero_pairs, bias, y}, begin, end);
    });
}

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
        for (int64_t g = 0; g < q.groups; ++g) {
            row.groups.scale[g] = scale[g];
            row.groups.zero[g] = zero[g];
            const bool safe = scale[g] > 1e-30f && scale[g] < 1e30f && zero[g] >= 0 && zero[g] <= q.levels;
            row.groups.inverse[g] = safe ? 1 / scale[g] : std::numeric_limits<float>::quiet_NaN();
        }
        for (int64_t r = begin; r < end; ++r) {
            if (!kernel->values(x + r * width, q, row.groups, y + r * width)) return kNotFinite;
        }
        return kOk;
    });
}
