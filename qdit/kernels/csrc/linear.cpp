// The grouped linear: blocks of rows, panels of outputs, chunks of inputs.
#include <cmath>
#include <memory>

#include "rows.h"

namespace qdit {
namespace {

constexpr int64_t kJoined = 128;  // a sum of so many codes has 15 bits
constexpr int64_t kChain = 64;  // products of a branch that are added before they are added to the rest

// A low-rank branch beside the product: y += up (down x). `rank` is padded with zeros to a multiple of 16.
struct Branch {
    int64_t rank;
    const float* down;  // width x rank
    const float* up;    // panels x rank x 48
};

struct Linear {
    int variant;
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
    int64_t step_count;  // of the transform before the quantizer
    const TransformStep* steps;
    Branch branch;
    float* y;

    int64_t chunk_groups() const {
        const int64_t fitting = kChunk / group_size;
        return fitting < 1 ? 1 : (fitting > kMostGroups ? kMostGroups : fitting);
    }
    bool centered() const { return storage != 8 && kernel.unpack_centered != nullptr; }
    bool joins() const { return centered() && group_size <= kJoined; }
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
    int32_t* centers;    // of one chunk of a panel, only for centered weights
    float* transformed;  // kTileRows rows
    float* narrow;       // what a branch makes of each row: its `rank` numbers
    Block(const Linear& l, int64_t rows) {
        const int64_t coded = rows * l.quantizer.width + 64, pairs = rows * l.groups;
        const int64_t chunk = l.storage == 8 ? 0 : l.chunk_groups() * (l.group_size / 4) * kBytes;
        const int64_t corrections = l.centered() ? l.chunk_groups() * kColumns : 0;
        const int64_t floats = l.step_count ? kTileRows * l.quantizer.width : 0, ranks = rows * l.branch.rank;
        Arena arena(Arena::padded(coded) + 3 * Arena::padded(4 * pairs) + Arena::padded(chunk) +
                    Arena::padded(4 * corrections) + Arena::padded(4 * floats) + Arena::padded(4 * ranks));
        codes = arena.take<uint8_t>(coded);
        scale = arena.take<float>(pairs);
        zeros = arena.take<int32_t>(pairs);
        totals = arena.take<int32_t>(pairs);
        scratch = arena.take<int8_t>(chunk);
        centers = arena.take<int32_t>(corrections);
        transformed = arena.take<float>(floats);
        narrow = arena.take<float>(ranks);
    }
};

// Two 16-bit integers in 32 bits.
inline int32_t pair(int32_t low, int32_t high) {
    return static_cast<int32_t>(static_cast<uint32_t>(low & 0xffff) | static_cast<uint32_t>(high) << 16);
}

// A pair whose dot product with (v, 128 v) is total v.
inline int32_t halves(int32_t total) { return pair(total & 127, total >> 7); }

// Scale, zero point and, for weights with zero points of their own, sum of the codes: for each group of the weight.
void keep_parameters(const Linear& l, const Groups& ranges, const uint8_t* codes, int64_t row, Block& block) {
    const int64_t shared = l.quantizer.group_size / l.group_size;
    for (int64_t g = 0; g < l.groups; ++g) {
        const int32_t zero = static_cast<int32_t>(ranges.zero[g / shared]);
        const int64_t at = row * l.groups + g;
        block.scale[at] = ranges.scale[g / shared];
        block.zeros[at] = pair(zero, zero << 7);
        if (l.zero_pairs == nullptr && !l.centered()) continue;
        int32_t total = 0;
        for (int64_t i = 0; i < l.group_size; ++i) total += codes[g * l.group_size + i];
        if (!l.centered()) total -= static_cast<int32_t>(l.group_size) * zero;
        if (l.joins()) block.zeros[at] = pair(zero, total);
        else block.totals[at] = halves(total);
    }
}

bool quantize_row(const Linear& l, Row& row, const float* x, int64_t r, Block& block) {
    const Quantizer& q = l.quantizer;
    uint8_t* codes = block.codes + r * q.width;
    if (!l.given_scale) {
        l.kernel.extremes(x, q, row.groups);
        if (!l.kernel.parameters(q, row.groups)) return false;
    }
    if (!l.kernel.codes(x, q, row.groups, codes)) return false;
    keep_parameters(l, row.groups, codes, r, block);
    return true;
}

// narrow = x down, in chains of kChain inputs.
void narrow_rows(const Linear& l, const float* x, int rows, float* narrow) {
    const int64_t width = l.quantizer.width, rank = l.branch.rank;
    for (int64_t k = 0; k < width; k += kChain) {
        const int64_t count = width - k < kChain ? width - k : kChain;
        float_kernel(l.variant)
            .product(rows, {x + k, width, count, l.branch.down + k * rank, rank, rank, narrow, rank, k == 0});
    }
}

// A few rows at a time are transformed, quantized and multiplied by `down`, while they lie in the first-level cache.
bool quantize(const Linear& l, Row& row, int64_t first, int64_t rows, Block& block) {
    const int64_t width = l.quantizer.width;
    if (l.given_scale) give_ranges(l.quantizer, l.given_scale, l.given_zero, row.groups);
    for (int64_t r = 0; r < rows; r += kTileRows) {
        const int count = static_cast<int>(rows - r < kTileRows ? rows - r : kTileRows);
        const float* x = l.x + (first + r) * width;
        for (int i = 0; l.step_count && i < count; ++i) {
            transform_row(l.variant, x + i * width, width, l.step_count, l.steps, block.transformed + i * width);
        }
        if (l.step_count) x = block.transformed;
        for (int i = 0; i < count; ++i) {
            if (!quantize_row(l, row, x + i * width, r + i, block)) return false;
        }
        if (l.branch.rank) narrow_rows(l, x, count, block.narrow + r * l.branch.rank);
    }
    return true;
}

// y = the branch, for one panel and all rows of a block; the integer products are added to it.
void start_with_branch(const Linear& l, const Block& block, int64_t first_row, int64_t rows, int64_t panel) {
    const int64_t rank = l.branch.rank, column = panel * kColumns;
    const int64_t columns = l.outputs - column < kColumns ? l.outputs - column : kColumns;
    alignas(64) float part[kTileRows * kColumns];
    for (int64_t r = 0; r < rows; r += kTileRows) {
        const int count = static_cast<int>(rows - r < kTileRows ? rows - r : kTileRows);
        float* y = l.y + (first_row + r) * l.outputs + column;
        const bool whole = columns == kColumns;
        float* out = whole ? y : part;
        const int64_t stride = whole ? l.outputs : kColumns;
        for (int64_t k = 0; k < rank; k += kChain) {
            const int64_t terms = rank - k < kChain ? rank - k : kChain;
            float_kernel(l.variant)
                .product(count, {block.narrow + r * rank + k, rank, terms,
                                 l.branch.up + (panel * rank + k) * kColumns, kColumns, kColumns, out, stride, k == 0});
        }
        for (int i = 0; !whole && i < count; ++i) {
            std::memcpy(y + i * l.outputs, part + i * kColumns, static_cast<size_t>(columns) * sizeof(float));
        }
    }
}

// Sum of qx (qw - zero) = sum of qx (qw - center) + (center - zero) times the sum of qx: the factors of one chunk. Small
// groups have them beside their sum of qw - zero, for the pair (zero, sum of qx) of the inputs.
void keep_centers(const Linear& l, int64_t at, int64_t count, int32_t* centers) {
    for (int64_t i = 0; i < count; ++i) {
        const int32_t beyond = center(l.storage) - l.zeros[at + i], sums = l.sums[at + i];
        const int32_t low = static_cast<int16_t>(sums & 0xffff), high = sums >> 16;
        centers[i] = l.joins() ? pair(low + 128 * high, beyond) : pair(beyond, 128 * beyond);
    }
}

// One chunk of one panel for all rows of a block.
bool multiply(const Linear& l, const Block& block, int64_t first_row, int64_t rows, int64_t panel, int64_t group,
              const uint8_t* packed, int8_t* scratch) {
    const int64_t width = l.quantizer.width, steps = l.group_size / 4, most = l.chunk_groups();
    const int64_t groups = l.groups - group < most ? l.groups - group : most;
    const int64_t at = (panel * l.groups + group) * kColumns, column = panel * kColumns;
    const int64_t columns = l.outputs - column < kColumns ? l.outputs - column : kColumns;
    const int8_t* weight = reinterpret_cast<const int8_t*>(packed);
    const int32_t *weight_sums = l.sums + at, *weight_zeros = l.zero_pairs ? l.zero_pairs + at : nullptr;
    if (l.storage != 8) {
        const auto unpack = l.centered() ? l.kernel.unpack_centered : l.kernel.unpack;
        unpack(PackedChunk{packed, l.zeros + at, groups, steps, l.storage}, scratch);
        weight = scratch;
    }
    if (l.centered()) {
        keep_centers(l, at, groups * kColumns, block.centers);
        (l.joins() ? weight_sums : weight_zeros) = block.centers;
    }
    alignas(64) float part[kTileRows * kColumns];
    const Tile whole{block.codes + group * l.group_size, block.scale + group, block.zeros + group, block.totals + group,
                     width, l.groups, weight, l.scale + at, weight_sums, weight_zeros,
                     groups, steps, l.storage, part};
    Output out{l.y + first_row * l.outputs + column, l.outputs, l.bias ? l.bias + column : nullptr,
               group == 0 && !l.branch.rank, group + groups == l.groups};
    if (l.kernel.block != nullptr) return l.kernel.block(rows, columns, whole, out);
    bool finite = true;
    for (int64_t r = 0; r < rows; r += kTileRows, out.y += kTileRows * out.stride) {
        const int count = static_cast<int>(rows - r < kTileRows ? rows - r : kTileRows);
        const Tile tile = from_row(whole, r);
        if (l.kernel.tile_to != nullptr && columns == kColumns) {
            finite &= l.kernel.tile_to(count, tile, out);
            continue;
        }
        l.kernel.tile(count, tile);
        for (int i = 0; i < count; ++i) {
            float* y = out.y + i * out.stride;
            finite &= l.kernel.finish(part + i * kColumns, columns, out.first, out.last, out.bias, y);
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
            if (l.branch.rank) start_with_branch(l, block, first, rows, panel);
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

// y (rows, outputs) = quantized x (rows, width) times the packed weight, + bias (outputs) or null. input_group inputs,
// a multiple of the weight's group_size, share a range: that of the row at hand, or the given scale and zero (0 … 255).
// Before that, x goes through the steps of a transform. A branch adds up (down x), with x after the transform.
QDIT_EXPORT int qdit_grouped_linear(int variant, const float* x, int64_t rows, int64_t width, int64_t outputs,
                                    int64_t group_size, int storage, const uint8_t* codes, const float* scale,
                                    const int32_t* sums, const int8_t* zeros, const int32_t* zero_pairs,
                                    const float* bias, int64_t input_group, const float* given_scale,
                                    const float* given_zero, int bits, int symmetric, int64_t step_count,
                                    const TransformStep* steps, int64_t rank, const float* down, const float* up,
                                    int threads, float* y) {
    const Kernel* kernel = kernel_of(variant);
    Quantizer q;
    if (!kernel || !makes_quantizer(width, input_group, bits, symmetric, q) || outputs < 1 || group_size < 4 ||
        group_size % 4 || input_group % group_size || !fit_steps(width, step_count, steps) || rank < 0 || rank % 16 ||
        (storage != 4 && storage != 6 && storage != 8)) {
        return kBadArgument;
    }
    for (int64_t g = 0; given_scale && g < q.groups; ++g) {
        if (!(given_zero[g] >= 0 && given_zero[g] <= 255)) return kBadArgument;
    }
    return over_rows(rows, threads, [&](int64_t begin, int64_t end) -> int {
        const std::vector<int32_t> index = group_index(q, kernel->lanes);
        return linear_rows(Linear{variant, *kernel, q, index.data(), x, given_scale, given_zero, outputs, group_size,
                                  width / group_size, storage, codes, scale, sums, zeros, zero_pairs, bias, step_count,
                                  steps, Branch{rank, down, up}, y},
                           begin, end);
    });
}
