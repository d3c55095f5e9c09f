// What every variant (scalar, AVX2, AVX-VNNI, AVX512-VNNI, AMX, NEON) provides, and the shapes they share. docs/kernels.md explains both.
#pragma once
#include <cstdint>

namespace qdit {

constexpr int kColumns = 48;              // output columns of a weight panel
constexpr int kBytes = 4 * kColumns;      // bytes of one step (4 inputs x 48 columns) of a panel
constexpr int kTileRows = 4;              // rows of a micro-tile
constexpr int64_t kRowBlock = 256;        // rows quantized before they are multiplied
constexpr int64_t kMostGroups = 32;       // groups of a chunk of the inner dimension
constexpr int64_t kChunk = 512;           // inputs of a chunk, about
constexpr int64_t kPadding = 16;          // readable elements after the arrays of a row

// Numbers of the variants, in the order of VARIANTS (qdit/kernels/backend.py).
enum Variant : int { kScalar, kAvx2, kAvxVnni, kAvx512Vnni, kAmx, kNeonDot, kNeonI8mm, kVariants };
inline bool is_avx2(int variant) { return variant == kAvx2 || variant == kAvxVnni; }
inline bool is_avx512(int variant) { return variant == kAvx512Vnni || variant == kAmx; }

enum Status : int { kOk = 0, kNotFinite = 1, kBadArgument = 2, kFailed = 3 };

// Parameters of the groups of one row; `inverse` is NaN where only a true division is safe.
struct Groups {
    float* scale;
    float* zero;
    float* inverse;
    float* low;
    float* high;
    float* quads;          // scratch: 2 x (width / 4 + padding)
    const int32_t* index;  // element -> its group, counted from the group of its vector's first lane
};

struct Quantizer {
    int64_t width;
    int64_t group_size;
    int64_t groups;
    float levels;    // 2^bits - 1
    bool symmetric;  // then the zero point is 2^(bits - 1)
};

// One micro-tile: `rows` rows x 48 columns x the groups of one chunk.
struct Tile {
    const uint8_t* codes;      // activations, row stride `width`
    const float* scale;        // of the activations, row stride `groups`
    const int32_t* zeros;      // (zero, 128 zero) as two 16-bit integers, row stride `groups`
    const int32_t* totals;     // (total & 127, total >> 7) of what weight_zeros multiplies; only with these
    int64_t width, groups;
    const int8_t* weight;      // steps x 48 x 4
    const float* weight_scale;     // chunk groups x 48
    const int32_t* weight_sums;    // -(sum & 127), -(sum >> 7)
    const int32_t* weight_zeros;   // a zero point that the weights still hold, negative, and 128 of it; or null
    int64_t chunk_groups, group_steps;
    int storage;               // 4, 6 or 8: bounds |weight| by 15, 63, 128; if centered by 8, 32
    float* part;               // rows x 48
};

// The tile without its first `row` rows.
inline Tile from_row(Tile tile, int64_t row) {
    tile.codes += row * tile.width;
    tile.scale += row * tile.groups;
    tile.zeros += row * tile.groups;
    tile.totals += row * tile.groups;
    return tile;
}

// One chunk of a panel: groups x group_steps steps, packed with 4, 4 + 2 or 8 bits.
struct PackedChunk {
    const uint8_t* codes;
    const int8_t* zeros;  // chunk groups x 48
    int64_t groups, group_steps;
    int storage;
};

// What centered weights of 4 and 6 bits are away from: smaller weights leave room for more products in 16 bits.
constexpr int center(int storage) { return storage == 4 ? 8 : 32; }

// Where a tile's sums go: y = part or y + part, then + bias if not null and it is the last chunk.
struct Output {
    float* y;  // row stride `stride`
    int64_t stride;
    const float* bias;
    bool first, last;
};

// One step of an input transform. `values` holds one number per channel; a Hadamard matrix has blocks of `size` instead.
enum StepKind : int32_t { kDivide, kSubtract, kMultiply, kHadamard, kStepKinds };
struct TransformStep {
    int32_t kind;
    int64_t size;
    const float* values;
};

// out = a b, or out + a b: at most kTileRows rows, `columns` (a multiple of 16), `count` products in each sum. A sum
// starts with 0 and is a chain of fused multiply-adds in the order of its products.
struct Product {
    const float* a;
    int64_t a_stride, count;
    const float* b;
    int64_t b_stride, columns;
    float* out;
    int64_t out_stride;
    bool first;
};

struct FloatKernel {
    void (*transform)(float* x, int64_t width, const TransformStep& step);  // in place, one row
    void (*product)(int rows, const Product& p);
};

const FloatKernel& float_kernel(int variant);

struct Kernel {
    int lanes;
    void (*extremes)(const float* x, const Quantizer& q, const Groups& g);
    bool (*parameters)(const Quantizer& q, const Groups& g);  // false: a scale is not finite
    bool (*codes)(const float* x, const Quantizer& q, const Groups& g, uint8_t* out);   // false: x is not finite
    bool (*values)(const float* x, const Quantizer& q, const Groups& g, float* out);    // false: x is not finite
    void (*unpack)(const PackedChunk& chunk, int8_t* out);
    void (*tile)(int rows, const Tile& tile);
    // y = part or y + part, then + bias if not null; false: a result of the last chunk is not finite.
    bool (*finish)(const float* part, int64_t columns, bool first, bool last, const float* bias, float* y);
    // Tile and finish of all 48 columns at once, or null; the same bits.
    bool (*tile_to)(int rows, const Tile& tile, const Output& out) = nullptr;
    // Tile and finish of all rows of a block at once, or null; `columns` of the panel's 48 are outputs. The same bits.
    bool (*block)(int64_t rows, int64_t columns, const Tile& tile, const Output& out) = nullptr;
    // Unpacks code - center(storage) instead of code - zero, or null; then the driver corrects the start of each sum.
    void (*unpack_centered)(const PackedChunk& chunk, int8_t* out) = nullptr;
};

const Kernel& scalar_kernel();
const Kernel* avx2_kernel();    // null where the processor or the compiler's target has it not
const Kernel* avxvnni_kernel();
const Kernel* avx512_kernel();
const Kernel* amx_kernel();
const Kernel* neon_dot_kernel();
const Kernel* neon_i8mm_kernel();
const Kernel* kernel_of(int variant);

}  // namespace qdit
