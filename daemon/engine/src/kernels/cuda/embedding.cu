// Rows of tables: some rows of a matrix, and the gradient of a table that many tokens share rows of.
#include "common.cuh"

// out[i] = x[rows[i]], a block a row.
KERNEL gather_rows(const real* x, const uint32_t* rows, real* out, uint32_t width) {
    uint64_t from = (uint64_t)rows[blockIdx.x] * width, to = (uint64_t)blockIdx.x * width;
    for (uint32_t c = 2 * threadIdx.x; c < width; c += 2 * blockDim.x) store2(out + to + c, load2(x + from + c));
}

// x[rows[i]] += add[i], a block a row; no row stands there twice.
KERNEL add_to_rows(real* x, const uint32_t* rows, const real* add, uint32_t width) {
    uint64_t to = (uint64_t)rows[blockIdx.x] * width, from = (uint64_t)blockIdx.x * width;
    for (uint32_t c = 2 * threadIdx.x; c < width; c += 2 * blockDim.x) {
        float2 a = load2(x + to + c), b = load2(add + from + c);
        store2(x + to + c, make_float2(a.x + b.x, a.y + b.y));
    }
}

// The sum of the gradients of the tokens `tokens[starts[s]]` to `tokens[starts[s + 1] - 1]`, in parts[s]: a block a
// slice s. Tokens that share a row stand side by side, in slices of a bounded length, so that no block has much more
// to do than another.
KERNEL sum_slices(const real* grad, const uint32_t* tokens, const uint32_t* starts, float* parts, uint32_t width) {
    uint32_t start = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (uint32_t c = 2 * threadIdx.x; c < width; c += 2 * blockDim.x) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (uint32_t i = start; i < end; ++i) {
            float2 g = load2(grad + (uint64_t)tokens[i] * width + c);
            sum = make_float2(sum.x + g.x, sum.y + g.y);
        }
        store2(parts + (uint64_t)blockIdx.x * width + c, sum);
    }
}

// Adds the slices starts[g] to starts[g + 1] - 1 to the row rows[g] of the table: a block a group g.
KERNEL add_slices(const float* parts, const uint32_t* rows, const uint32_t* starts, float* table, uint32_t width) {
    uint32_t start = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    float* row = table + (uint64_t)rows[blockIdx.x] * width;
    for (uint32_t c = 2 * threadIdx.x; c < width; c += 2 * blockDim.x) {
        float2 sum = load2(row + c);
        for (uint32_t i = start; i < end; ++i) {
            float2 part = load2(parts + (uint64_t)i * width + c);
            sum = make_float2(sum.x + part.x, sum.y + part.y);
        }
        store2(row + c, sum);
    }
}
