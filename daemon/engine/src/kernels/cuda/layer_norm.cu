// Layer norm, alone and at the end of a block: a warp takes a row, each of its lanes pairs of columns.
#include "common.cuh"

struct Norm {
    const float* weight;
    const float* bias;
    float eps;
    uint32_t width;
};

// Normalises the row in `sums` (each lane its own columns), whose lanes hold the partial sums `sum`. Writes the
// normalised row, one over its deviation, and `after` times the result.
__device__ inline void normalise(const Norm& norm, const float* sums, float sum, uint64_t at, const Dropout& after,
                                 real* normal, float* inverse, real* out) {
    uint32_t lane = threadIdx.x % WARP, width = norm.width;
    float mean = warp_sum(sum) / width;
    float squares = 0.0f;
    for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
        float x = sums[c] - mean, y = sums[c + 1] - mean;
        squares += x * x + y * y;
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / width + norm.eps);
    for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
        float2 n = make_float2((sums[c] - mean) * scale, (sums[c + 1] - mean) * scale);
        float2 w = load2(norm.weight + c), b = load2(norm.bias + c), f = factor2(after, at + c);
        store2(normal + at + c, n);
        store2(out + at + c, make_float2((n.x * w.x + b.x) * f.x, (n.y * w.y + b.y) * f.y));
    }
    if (lane == 0) *inverse = scale;
}

// out = norm(residual + dropout(x + x_bias)); `normal` may be `x`. `x_bias` and `residual` may be null.
KERNEL norm_forward(const real* x, const float* x_bias, const real* residual, Norm norm, Dropout dropout, real* normal,
                    float* inverse, real* out, uint32_t rows) {
    DYNAMIC_SHARED(shared);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = norm.width;
    uint32_t row = blockIdx.x * (blockDim.x / WARP) + warp;
    if (row >= rows) return;
    float* sums = shared + warp * width;
    uint64_t at = (uint64_t)row * width;
    float sum = 0.0f;
    for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
        float2 v = load2(x + at + c), f = factor2(dropout, at + c);
        if (x_bias) {
            float2 b = load2(x_bias + c);
            v = make_float2(v.x + b.x, v.y + b.y);
        }
        v = make_float2(v.x * f.x, v.y * f.y);
        if (residual) {
            float2 r = load2(residual + at + c);
            v = make_float2(v.x + r.x, v.y + r.y);
        }
        sums[c] = v.x;
        sums[c + 1] = v.y;
        sum += v.x + v.y;
    }
    Dropout none = {};
    normalise(norm, sums, sum, at, none, normal, inverse + row, out);
}

// out = dropout(norm(the sum of a row of each table)). `type_table` may be null.
KERNEL embed_forward(const float* word_table, const float* position_table, const float* type_table,
                     const uint32_t* words, const uint32_t* positions, const uint32_t* types, Norm norm,
                     Dropout dropout, real* normal, float* inverse, real* out, uint32_t rows) {
    DYNAMIC_SHARED(shared);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, width = norm.width;
    uint32_t row = blockIdx.x * (blockDim.x / WARP) + warp;
    if (row >= rows) return;
    float* sums = shared + warp * width;
    const float* word = word_table + (uint64_t)words[row] * width;
    const float* position = position_table + (uint64_t)positions[row] * width;
    float sum = 0.0f;
    for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
        float2 w = load2(word + c), p = load2(position + c);
        float2 v = make_float2(w.x + p.x, w.y + p.y);
        if (type_table) {
            float2 t = load2(type_table + (uint64_t)types[row] * width + c);
            v = make_float2(v.x + t.x, v.y + t.y);
        }
        sums[c] = v.x;
        sums[c + 1] = v.y;
        sum += v.x + v.y;
    }
    normalise(norm, sums, sum, (uint64_t)row * width, dropout, normal, inverse + row, out);
}

// In place of the gradient of the result, that of the sum that was normalised; in `grad_x`, unless it is null, the same
// times the dropout's factors. A block takes `rows_of_block` rows and writes its share of the gradients of weight and
// bias to `parts`, [blocks, 2 width].
KERNEL norm_backward(const real* normal, const float* inverse, const float* weight, Dropout dropout, real* grad,
                     real* grad_x, float* parts, uint32_t rows, uint32_t width, uint32_t rows_of_block) {
    DYNAMIC_SHARED(shared);
    uint32_t warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float* scaled = shared + warp * 3 * width;
    float* of_weight = scaled + width;
    float* of_bias = of_weight + width;
    for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
        of_weight[c] = of_weight[c + 1] = of_bias[c] = of_bias[c + 1] = 0.0f;
    }
    uint32_t end = min(rows, (blockIdx.x + 1) * rows_of_block);
    for (uint32_t row = blockIdx.x * rows_of_block + warp; row < end; row += warps) {
        uint64_t at = (uint64_t)row * width;
        float sum = 0.0f, along = 0.0f;
        for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
            float2 g = load2(grad + at + c), n = load2(normal + at + c), w = load2(weight + c);
            of_weight[c] += g.x * n.x;
            of_weight[c + 1] += g.y * n.y;
            of_bias[c] += g.x;
            of_bias[c + 1] += g.y;
            g = make_float2(g.x * w.x, g.y * w.y);
            scaled[c] = g.x;
            scaled[c + 1] = g.y;
            sum += g.x + g.y;
            along += g.x * n.x + g.y * n.y;
        }
        float mean = warp_sum(sum) / width, slope = warp_sum(along) / width, scale = inverse[row];
        for (uint32_t c = 2 * lane; c < width; c += 2 * WARP) {
            float2 n = load2(normal + at + c);
            float2 g = make_float2(scale * (scaled[c] - slope * n.x - mean),
                                   scale * (scaled[c + 1] - slope * n.y - mean));
            store2(grad + at + c, g);
            if (grad_x) {
                float2 f = factor2(dropout, at + c);
                store2(grad_x + at + c, make_float2(g.x * f.x, g.y * f.y));
            }
        }
    }
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < 2 * width; c += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t other = 0; other < warps; ++other) sum += shared[other * 3 * width + width + c];
        parts[(uint64_t)blockIdx.x * 2 * width + c] = sum;
    }
}
