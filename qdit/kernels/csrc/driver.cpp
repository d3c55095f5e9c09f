// Blocks, threads and the C interface. Threads split rows only, so their number changes no bit.
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
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
        case 3: return neon_dot_kernel();
        case 4: return neon_i8mm_kernel();
        default: return nullptr;
    }
}

std::vector<int32_t> group_index(const Quantizer& q, int lanes) {
    if (q.group_size % lanes == 0) return {};  // a vector never holds two groups
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

// Given ranges of the inputs, one pair per group of the quantizer.
void give_ranges(const Quantizer& q, const float* scale, const float* zero, const Groups& g) {
    for (int64_t i = 0; i < q.groups; ++i) {
        g.scale[i] = scale[i];
        g.zero[i] = zero[i];
        const bool safe = scale[i] > 1e-30f && scale[i] < 1e30f && zero[i] >= 0 && zero[i] <= q.levels;
        g.inverse[i] = safe ? 1 / scale[i] : std::numeric_limits<float>::quiet_NaN();
    }
}

struct Linear {
    const Kernel& kernel;
    Quantizer quantizer;  // of the inputs; its groups hold one or more groups of the weight
    const int32_t* index;
    const float* x;
    const float* given_scale;  // of the inputs, one per group of the quantizer; null: made of x
    const float* given_zero;
    int64_t outputs, group_size, groups;
    int storage;
    const uint8_t* codes;
    const float* scale;
    const int32_t* sums;
    const int8_t* zeros;
    const int32_t* zero_pairs;
    const float* bias;
    float* y;

    int64_t chunk_groups() const {
        const int64_t fitting = kChunk / group_size;
        return fitting < 1 ? 1 : (fitting > kMostGroups ? kMostGroups : fitting);
    }
    int64_t packed_bytes(int64_t groups) const {  // of one chunk of a panel
        const int64_t steps = groups * (group_size / 4);
        return storage == 8 ? steps * kBytes : (steps + 3) / 4 * (storage == 4 ? 2 : 3) * kBytes;
    }
};

// Memory of a thread that later calls use again: fresh pages cost more than what is computed in them.
class Arena {
  public:
    explicit Arena(size_t bytes) {
        thread_local std::unique_ptr<char[]> memory;
        thread_local size_t size = 0;
        if (size < bytes + kLine) {
            memory.reset();
            size = 0;
            memory.reset(new char[bytes + kLine]);
            size = bytes + kLine;
        }
        const auto address = reinterpret_cast<uintptr_t>(memory.get());
        at_ = memory.get() + (kLine - address % kLine) % kLine;
    }
    template <class T>
    T* take(int64_t count) {
        T* taken = reinterpret_cast<T*>(at_);
        at_ += padded(count * sizeof(T));
        return taken;
    }
    static size_t padded(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

  private:
    static constexpr size_t kLine = 64;
    char* at_;
};

// Quantized rows of one block, and the unpacked weights of one chunk.
struct Block {
    uint8_t* codes;
    float* scale;
    int32_t *zeros, *totals;
    int8_t* scratch;
    Block(const Linear& l, int64_t rows) {
        const int64_t coded = rows * l.quantizer.width + 64, pairs = rows * l.groups;
        const int64_t chunk = l.storage == 8 ? 0 : l.chunk_groups() * (l.group_size / 4) * kBytes;
        Arena arena(Arena::padded(coded) + 3 * Arena::padded(4 * pairs) + Arena::padded(chunk));
        codes = arena.take<uint8_t>(coded);
        scale = arena.take<float>(pairs);
        zeros = arena.take<int32_t>(pairs);
        totals = arena.take<int32_t>(pairs);
        scratch = arena.take<int8_t>(chunk);
    }
};

bool quantize(const Linear& l, Row& row, int64_t first, int64_t rows, Block& block) {
    const Quantizer& q = l.quantizer;
    const int64_t shared = q.group_size / l.group_size;
    if (l.given_scale) give_ranges(q, l.given_scale, l.given_zero, row.groups);
    for (int64_t r = 0; r < rows; ++r) {
        const float* x = l.x + (first + r) * q.width;
        uint8_t* codes = block.codes + r * q.width;
        if (!l.given_scale) {
            l.kernel.extremes(x, q, row.groups);
            if (!l.kernel.parameters(q, row.groups)) return false;
        }
        if (!l.kernel.codes(x, q, row.groups, codes)) return false;
        for (int64_t g = 0, own = 0, left = shared; g < l.groups; ++g) {
            const int32_t zero = static_cast<int32_t>(row.groups.zero[own]);
            const int64_t at = r * l.groups + g;
            block.scale[at] = row.groups.scale[own];
            block.zeros[at] = zero | zero << 23;
            if (--left == 0) ++own, left = shared;
            if (l.zero_pairs == nullptr) continue;
            int32_t total = 0;
            for (int64_t i = 0; i < l.group_size; ++i) total += codes[g * l.group_size + i];
            total -= static_cast<int32_t>(l.group_size) * zero;
            block.totals[at] = (total & 127) | static_cast<int32_t>(static_cast<uint32_t>(total >> 7) << 16);
        }
    }
    return true;
}

// One chunk of one panel for all rows of a block.
bool multiply(const Linear& l, const Block& block, int64_t first_row, int64_t rows, int64_t panel, int64_t group,
              const uint8_t* packed, int8_t* scratch) {
    const int64_t width = l.quantizer.width, steps = l.group_size / 4, most = l.chunk_groups();
    const int64_t groups = l.groups - group < most ? l.groups - group : most;
    const int64_t at = (panel * l.groups + group) * kColumns, column = panel * kColumns;
    const int64_t columns = l.outputs - column < kColumns ? l.outputs - column : kColumns;
    const int8_t* weight = reinterpret_cast<const int8_t*>(packed);
    if (l.storage != 8) {
        l.kernel.unpack(PackedChunk{packed, l.zeros + at, groups, steps, l.storage}, scratch);
        weight = scratch;
    }
    alignas(64) float part[kTileRows * kColumns];
    Tile tile{nullptr, nullptr, nullptr, nullptr, width, l.groups, weight, l.scale + at, l.sums + at,
              l.zero_pairs ? l.zero_pairs + at : nullptr, groups, steps, l.storage, part};
    bool finite = true;
    for (int64_t r = 0; r < rows; r += kTileRows) {
        const int64_t count = rows - r < kTileRows ? rows - r : kTileRows, pair = r * l.groups + group;
        tile.codes = block.codes + r * width + group * l.group_size;
        tile.scale = block.scale + pair;
        tile.zeros = block.zeros + pair;
        tile.totals = block.totals + pair;
        if (l.kernel.tile_to != nullptr && columns == kColumns) {
            const Output out{l.y + (first_row + r) * l.outputs + column, l.outputs, l.bias ? l.bias + column : nullptr,
                             group == 0, group + groups == l.groups};
            finite &= l.kernel.tile_to(static_cast<int>(count), tile, out);
            continue;
        }
        l.kernel.tile(static_cast<int>(count), tile);
        for (int64_t i = 0; i < count; ++i) {
            float* y = l.y + (first_row + r + i) * l.outputs + column;
            finite &= l.kernel.finish(part + i * kColumns, columns, group == 0, group + groups == l.groups,
                                      l.bias ? l.bias + column : nullptr, y);
        }
    }
    return finite;
}

int linear_rows(const Linear& l, int64_t begin, int64_t end) {
    const int64_t most = l.chunk_groups(), panels = (l.outputs + kColumns - 1) / kColumns;
    Row row(l.quantizer, l.index);
    Block block(l, end - begin < kRowBlock ? end - begin : kRowBlock);
    for (int64_t first = begin; first < end; first += kRowBlock) {
        const int64_t rows = end - first < kRowBlock ? end - first : kRowBlock;
        if (!quantize(l, row, first, rows, block)) return kNotFinite;
        const uint8_t* packed = l.codes;
        for (int64_t panel = 0; panel < panels; ++panel) {
            for (int64_t group = 0; group < l.groups; group += most) {
                if (!multiply(l, block, first, rows, panel, group, packed, block.scratch)) return kNotFinite;
                packed += l.packed_bytes(l.groups - group < most ? l.groups - group : most);
            }
        }
    }
    return kOk;
}

}  // namespace
}  // namespace qdit

using namespace qdit;

// Bit v is set where variant v (0 scalar, 1 AVX2, 2 AVX512-VNNI, 3 NEON dot product, 4 NEON i8mm) runs here.
QDIT_EXPORT int qdit_variants() {
    int bits = 0;
    for (int variant = 0; variant < 5; ++variant) bits |= (kernel_of(variant) != nullptr) << variant;
    return bits;
}

// Raised with every change of an argument list.
QDIT_EXPORT int qdit_version() { return 3; }

// y (rows, outputs) = quantized x (rows, width) times the packed weight, + bias (outputs) or null. input_group inputs,
// a multiple of the weight's group_size, share a range: that of the row at hand, or the given scale and zero (0 … 255).
QDIT_EXPORT int qdit_grouped_linear(int variant, const float* x, int64_t rows, int64_t width, int64_t outputs,
                                    int64_t group_size, int storage, const uint8_t* codes, const float* scale,
                                    const int32_t* sums, const int8_t* zeros, const int32_t* zero_pairs,
                                    const float* bias, int64_t input_group, const float* given_scale,
                                    const float* given_zero, int bits, int symmetric, int threads, float* y) {
    const Kernel* kernel = kernel_of(variant);
    Quantizer q;
    if (!kernel || !makes_quantizer(width, input_group, bits, symmetric, q) || outputs < 1 || group_size < 4 ||
        group_size % 4 || input_group % group_size || (storage != 4 && storage != 6 && storage != 8)) {
        return kBadArgument;
    }
    for (int64_t g = 0; given_scale && g < q.groups; ++g) {
        if (!(given_zero[g] >= 0 && given_zero[g] <= 255)) return kBadArgument;
    }
    return over_rows(rows, threads, [&](int64_t begin, int64_t end) -> int {
        const std::vector<int32_t> index = group_index(q, kernel->lanes);
        return linear_rows(Linear{*kernel, q, index.data(), x, given_scale, given_zero, outputs, group_size,
                                  width / group_size, storage, codes, scale, sums, zeros, zero_pairs, bias, y},
                           begin, end);
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
        give_ranges(q, scale, zero, row.groups);
        for (int64_t r = begin; r < end; ++r) {
            if (!kernel->values(x + r * width, q, row.groups, y + r * width)) return kNotFinite;
        }
        return kOk;
    });
}
