// Computes the problems of a file with every variant that runs here and writes what came out; test_neon.py makes the
// file and reads the results. Both are sequences of 8-byte integers and arrays, each array preceded by its bytes.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

struct Step {
    int32_t kind;
    int64_t size;
    const float* values;
};

extern "C" {
int qdit_variants();
int qdit_grouped_linear(int variant, const float* x, int64_t rows, int64_t width, int64_t outputs, int64_t group_size,
                        int storage, const uint8_t* codes, const float* scale, const int32_t* sums, const int8_t* zeros,
                        const int32_t* zero_pairs, const float* bias, int64_t input_group, const float* given_scale,
                        const float* given_zero, int bits, int symmetric, int64_t step_count, const Step* steps,
                        int64_t rank, const float* down, const float* up, int threads, float* y);
int qdit_fake_quantize_groups(int variant, const float* x, int64_t rows, int64_t width, int64_t group_size, int bits,
                              int symmetric, int threads, float* y);
int qdit_fake_quantize_static(int variant, const float* x, int64_t rows, int64_t width, int64_t group_size,
                              const float* scale, const float* zero, int bits, int threads, float* y);
}

static int64_t number() {
    int64_t value;
    if (std::fread(&value, 8, 1, stdin) != 1) std::exit(3);
    return value;
}

template <class T>
static std::vector<T> array() {
    std::vector<T> values(static_cast<size_t>(number()) / sizeof(T));
    if (!values.empty() && std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) std::exit(3);
    return values;
}

static void write(int64_t status, const std::vector<float>& values) {
    std::fwrite(&status, 8, 1, stdout);
    std::fwrite(values.data(), 4, values.size(), stdout);
}

template <class T>
static const T* given(const std::vector<T>& values) { return values.empty() ? nullptr : values.data(); }

int main() {
    const int64_t variants = qdit_variants();
    std::fwrite(&variants, 8, 1, stdout);
    for (int64_t count = number(); count > 0; --count) {
        const int64_t rows = number(), width = number(), outputs = number(), group_size = number(), storage = number();
        const int64_t input_group = number(), bits = number(), symmetric = number();
        const int64_t block = number(), rank = number();  // 0: no transform, no branch
        const auto x = array<float>();
        const auto codes = array<uint8_t>();
        const auto scale = array<float>();
        const auto sums = array<int32_t>();
        const auto zeros = array<int8_t>();
        const auto pairs = array<int32_t>();
        const auto bias = array<float>(), given_scale = array<float>(), given_zero = array<float>();
        const auto factor = array<float>(), down = array<float>(), up = array<float>();
        const Step steps[2] = {{0, 0, factor.data()}, {3, block, nullptr}};
        for (int variant = 0; variant < 7; ++variant) {
            if (!(variants >> variant & 1)) continue;
            std::vector<float> y(rows * outputs), grouped(rows * width), fixed(rows * width);
            write(qdit_grouped_linear(variant, x.data(), rows, width, outputs, group_size, storage, codes.data(),
                                      scale.data(), sums.data(), zeros.data(), given(pairs), given(bias), input_group,
                                      given(given_scale), given(given_zero), bits, symmetric, block ? 2 : 0, steps, rank,
                                      given(down), given(up), 2, y.data()), y);
            write(qdit_fake_quantize_groups(variant, x.data(), rows, width, group_size, bits, symmetric, 1,
                                            grouped.data()), grouped);
            const float step = 0.02f, zero = 3;
            write(qdit_fake_quantize_static(variant, x.data(), rows, width, width, &step, &zero, bits, 1,
                                            fixed.data()), fixed);
        }
    }
}
