// The same attention on tensor cores, for bfloat16 and heads of 32 or 64 columns: products of 16 x 16 by 16 x 8 tiles
// (PTX `mma.sync.m16n8k16`) in the way of Dao (2023), FlashAttention-2. As in attention.cu, scores are never in memory and
// nothing is added up by atomic operations.
//
// A block has 4 warps. Each takes 16 rows of its own (queries, or in the pass for keys and values, keys), against 64 rows of
// the other side at a time, which all warps share.
//
// In what a lane holds of a 16 x 8 result, c[0] and c[1] are at row `lane / 4`, columns `2 (lane % 4)` and one more, c[2] and
// c[3] eight rows below. Two such results side by side, rounded to bfloat16, are what it holds of a 16 x 16 left factor.
#include "attention.cu"

#ifdef REAL_IS_BF16

namespace tensor {

constexpr uint32_t WARPS_OF_BLOCK = 4;
constexpr uint32_t ROWS = 16 * WARPS_OF_BLOCK;
constexpr int COLUMNS = 64;
constexpr int STEPS = COLUMNS / 8;
// Keeps rows 16 bytes apart in the banks of shared memory.
constexpr int PAD = 8;
constexpr float LOG2_E = 1.44269504f;

#ifndef EMULATED
// c += a b.
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 tiles from shared memory; lanes 8 i to 8 i + 7 give the rows of tile i.
__device__ inline void load_tiles(uint32_t (&tiles)[4], const real* row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address));
}

// The same, each tile turned.
__device__ inline void load_turned_tiles(uint32_t (&tiles)[4], const real* row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(address));
}
#else
using emulation::load_tiles;
using emulation::load_turned_tiles;
using emulation::multiply;
#endif

__device__ inline uint32_t pack(float x, float y) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<uint32_t*>(&pair);
}

// Sum and largest over the four lanes that share a row.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(FULL, x, 1);
    return x + __shfl_xor_sync(FULL, x, 2);
}

__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL, x, 2));
}

// Rows from `first` on, 0 where there are none.
template <int D>
__device__ inline void fill(real (*tile)[D + PAD], const real* from, uint32_t stride, uint32_t first, uint32_t rows) {
    constexpr uint32_t PIECES = D / 8;
    for (uint32_t i = threadIdx.x; i < COLUMNS * PIECES; i += blockDim.x) {
        uint32_t row = i / PIECES, piece = i % PIECES * 8;
        uint4 values = {0, 0, 0, 0};
        if (first + row < rows) {
            values = *reinterpret_cast<const uint4*>(from + (uint64_t)(first + row) * stride + piece);
        }
        *reinterpret_cast<uint4*>(&tile[row][piece]) = values;
    }
}

// The warp's own 16 rows as a left factor, 0 where there are none.
template <int D>
__device__ inline void load_own(uint32_t (&own)[D / 16][4], const real* from, uint32_t stride, uint32_t first,
                                uint32_t rows) {
    uint32_t lane = threadIdx.x % WARP, column = lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            uint32_t row = first + lane / 4 + part % 2 * 8;
            const real* at = from + (uint64_t)row * stride + 16 * k + column + part / 2 * 8;
            own[k][part] = row < rows ? *reinterpret_cast<const uint32_t*>(at) : 0;
        }
    }
}

// result[n] = own (tile rows 8 n to 8 n + 7)^T, for all rows of the tile.
template <int D>
__device__ inline void products(float (&result)[STEPS][4], const uint32_t (&own)[D / 16][4],
                                const real (*tile)[D + PAD]) {
    uint32_t lane = threadIdx.x % WARP, part = lane / 8, row = lane % 8;
#pragma unroll
    for (int n = 0; n < STEPS; n += 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) result[n][i] = result[n + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            uint32_t b[4];
            load_tiles(b, &tile[8 * (n + part / 2) + row][16 * k + part % 2 * 8]);
            multiply(result[n], own[k], b[0], b[1]);
            multiply(result[n + 1], own[k], b[2], b[3]);
        }
    }
}

// sums += weights tile, where `weights` are 16 x 64 results, rounded.
template <int D>
__device__ inline void accumulate(float (&sums)[D / 8][4], const float (&weights)[STEPS][4],
                                  const real (*tile)[D + PAD]) {
    uint32_t lane = threadIdx.x % WARP, part = lane / 8, row = lane % 8;
#pragma unroll
    for (int k = 0; k < COLUMNS / 16; ++k) {
        const float(&left)[4] = weights[2 * k];
        const float(&right)[4] = weights[2 * k + 1];
        uint32_t a[4] = {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]),
                         pack(right[2], right[3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_turned_tiles(b, &tile[16 * k + part % 2 * 8 + row][8 * (n + part / 2)]);
            multiply(sums[n], a, b[0], b[1]);
            multiply(sums[n + 1], a, b[2], b[3]);
        }
    }
}

// Writes the warp's own rows, those of `sums[.][0]` and `[1]` times `scales[0]`, the others times `scales[1]`.
template <int D>
__device__ inline void write_own(real* to, uint32_t stride, uint32_t first, uint32_t rows,
                                 const float (&sums)[D / 8][4], const float (&scales)[2]) {
    uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint32_t row = first + lane / 4 + half * 8;
        if (row >= rows) continue;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            float2 pair = make_float2(sums[n][2 * half] * scales[half], sums[n][2 * half + 1] * scales[half]);
            store2(to + (uint64_t)row * stride + 8 * n + lane % 4 * 2, pair);
        }
    }
}

// The factors of a row's columns `column` (even) and the next one; `start` is the index of the row's first.
__device__ inline float2 factors(const Dropout& dropout, uint64_t start, uint32_t column) {
    uint64_t index = start + column;
    if (index % 2 == 0) return factor2(dropout, index);
    return make_float2(factor(dropout, index), factor(dropout, index + 1));
}

// out = dropout(softmax(q k^T / sqrt(size))) v, and the logarithm of each softmax's denominator, [heads, rows].
template <int D>
__device__ inline void forward(const Attention& of, const uint2* tiles, real* out, uint32_t out_stride, float* logsums) {
    __shared__ __align__(16) real keys[COLUMNS][D + PAD], values[COLUMNS][D + PAD];
    uint2 place = tiles[blockIdx.x];
    Head head = head_of(of, place.x);
    uint32_t lane = threadIdx.x % WARP, first = place.y + threadIdx.x / WARP * 16;
    bool has_rows = first < head.queries;
    uint32_t own[D / 16][4];
    load_own<D>(own, head.q, of.q_stride, first, head.queries);
    float most[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f}, sums[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = 0.0f;
    }
    float scale = of.scale * LOG2_E;
    for (uint32_t start = 0; start < head.tokens; start += COLUMNS) {
        __syncthreads();
        fill<D>(keys, head.k, of.kv_stride, start, head.tokens);
        fill<D>(values, head.v, of.kv_stride, start, head.tokens);
        __syncthreads();
        if (!has_rows) continue;
        float scores[STEPS][4];
        products<D>(scores, own, keys);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float larger = most[half];
#pragma unroll
            for (int n = 0; n < STEPS; ++n) {
                uint32_t token = start + 8 * n + lane % 4 * 2;
                float& x = scores[n][2 * half];
                float& y = scores[n][2 * half + 1];
                x = token < head.tokens ? x * scale : -INFINITY;
                y = token + 1 < head.tokens ? y * scale : -INFINITY;
                larger = fmaxf(larger, fmaxf(x, y));
            }
            larger = row_max(larger);
            float shrink = exp2f(most[half] - larger), total = 0.0f;
            most[half] = larger;
            uint64_t row = first + lane / 4 + half * 8;
#pragma unroll
            for (int n = 0; n < STEPS; ++n) {
                float& x = scores[n][2 * half];
                float& y = scores[n][2 * half + 1];
                x = exp2f(x - larger);
                y = exp2f(y - larger);
                total += x + y;
                uint32_t token = start + 8 * n + lane % 4 * 2;
                float2 f = factors(of.dropout, head.probability + row * head.tokens, token);
                x *= f.x;
                y *= f.y;
            }
            totals[half] = totals[half] * shrink + row_sum(total);
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                sums[n][2 * half] *= shrink;
                sums[n][2 * half + 1] *= shrink;
            }
        }
        accumulate<D>(sums, scores, values);
    }
    if (!has_rows) return;
    float scales[2] = {1.0f / totals[0], 1.0f / totals[1]};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint32_t row = first + lane / 4 + half * 8;
        if (lane % 4 == 0 && row < head.queries) {
            logsums[(uint64_t)blockIdx.y * of.rows + head.query + row] = most[half] / LOG2_E + logf(totals[half]);
        }
    }
    real* to = out + (uint64_t)head.query * out_stride + head.column;
    write_own<D>(to, out_stride, first, head.queries, sums, scales);
}

// The gradient of the queries.
template <int D>
__device__ inline void backward_queries(const Attention& of, const Backward& from, const uint2* tiles, real* grad_q,
                                        uint32_t grad_stride) {
    __shared__ __align__(16) real keys[COLUMNS][D + PAD], values[COLUMNS][D + PAD];
    uint2 place = tiles[blockIdx.x];
    Head head = head_of(of, place.x);
    uint32_t lane = threadIdx.x % WARP, first = place.y + threadIdx.x / WARP * 16;
    bool has_rows = first < head.queries;
    const real* grad = from.of(head);
    uint32_t own[D / 16][4], own_grad[D / 16][4];
    load_own<D>(own, head.q, of.q_stride, first, head.queries);
    load_own<D>(own_grad, grad, from.stride, first, head.queries);
    float logsums[2], along[2], sums[D / 8][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint32_t row = min(first + lane / 4 + half * 8, head.queries - 1);
        uint64_t at = (uint64_t)blockIdx.y * of.rows + head.query + row;
        logsums[half] = from.logsums[at] * LOG2_E;
        along[half] = from.along[at];
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = 0.0f;
    }
    float scale = of.scale * LOG2_E;
    for (uint32_t start = 0; start < head.tokens; start += COLUMNS) {
        __syncthreads();
        fill<D>(keys, head.k, of.kv_stride, start, head.tokens);
        fill<D>(values, head.v, of.kv_stride, start, head.tokens);
        __syncthreads();
        if (!has_rows) continue;
        float scores[STEPS][4], slopes[STEPS][4];
        products<D>(scores, own, keys);
        products<D>(slopes, own_grad, values);
#pragma unroll
        for (int n = 0; n < STEPS; ++n) {
            uint32_t token = start + 8 * n + lane % 4 * 2;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint64_t row = first + lane / 4 + half * 8;
                float2 f = factors(of.dropout, head.probability + row * head.tokens, token);
                float& x = slopes[n][2 * half];
                float& y = slopes[n][2 * half + 1];
                float p = token < head.tokens ? exp2f(scores[n][2 * half] * scale - logsums[half]) : 0.0f;
                float r = token + 1 < head.tokens ? exp2f(scores[n][2 * half + 1] * scale - logsums[half]) : 0.0f;
                x = p * (x * f.x - along[half]);
                y = r * (y * f.y - along[half]);
            }
        }
        accumulate<D>(sums, slopes, keys);
    }
    if (!has_rows) return;
    float scales[2] = {of.scale, of.scale};
    real* to = grad_q + (uint64_t)head.query * grad_stride + head.column;
    write_own<D>(to, grad_stride, first, head.queries, sums, scales);
}

// The gradients of keys and values: scores are turned, a row a key.
template <int D>
__device__ inline void backward_tokens(const Attention& of, const Backward& from, const uint2* tiles, real* grad_k,
                                       real* grad_v, uint32_t grad_stride) {
    __shared__ __align__(16) real queries[COLUMNS][D + PAD], grads[COLUMNS][D + PAD];
    __shared__ float logsums[COLUMNS], along[COLUMNS];
    uint2 place = tiles[blockIdx.x];
    Head head = head_of(of, place.x);
    uint32_t lane = threadIdx.x % WARP, first = place.y + threadIdx.x / WARP * 16;
    bool has_rows = first < head.tokens;
    const real* grad = from.of(head);
    uint32_t own_keys[D / 16][4], own_values[D / 16][4];
    load_own<D>(own_keys, head.k, of.kv_stride, first, head.tokens);
    load_own<D>(own_values, head.v, of.kv_stride, first, head.tokens);
    float key_sums[D / 8][4], value_sums[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) key_sums[n][i] = value_sums[n][i] = 0.0f;
    }
    float scale = of.scale * LOG2_E;
    for (uint32_t start = 0; start < head.queries; start += COLUMNS) {
        __syncthreads();
        fill<D>(queries, head.q, of.q_stride, start, head.queries);
        fill<D>(grads, grad, from.stride, start, head.queries);
        if (threadIdx.x < COLUMNS) {
            uint32_t query = min(start + threadIdx.x, head.queries - 1);
            uint64_t at = (uint64_t)blockIdx.y * of.rows + head.query + query;
            logsums[threadIdx.x] = from.logsums[at] * LOG2_E;
            along[threadIdx.x] = from.along[at];
        }
        __syncthreads();
        if (!has_rows) continue;
        float scores[STEPS][4], slopes[STEPS][4];
        products<D>(scores, own_keys, queries);
        products<D>(slopes, own_values, grads);
#pragma unroll
        for (int n = 0; n < STEPS; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                uint32_t column = 8 * n + lane % 4 * 2 + i % 2, query = start + column;
                uint32_t token = first + lane / 4 + i / 2 * 8;
                bool is_there = query < head.queries && token < head.tokens;
                float p = is_there ? exp2f(scores[n][i] * scale - logsums[column]) : 0.0f;
                float f = factor(of.dropout, head.probability + (uint64_t)query * head.tokens + token);
                slopes[n][i] = p * (slopes[n][i] * f - along[column]);
                scores[n][i] = p * f;
            }
        }
        accumulate<D>(value_sums, scores, grads);
        accumulate<D>(key_sums, slopes, queries);
    }
    if (!has_rows) return;
    uint64_t at = (uint64_t)head.token * grad_stride + head.column;
    float of_keys[2] = {of.scale, of.scale}, of_values[2] = {1.0f, 1.0f};
    write_own<D>(grad_k + at, grad_stride, first, head.tokens, key_sums, of_keys);
    write_own<D>(grad_v + at, grad_stride, first, head.tokens, value_sums, of_values);
}

}  // namespace tensor

KERNEL tensor_attention_forward_32(Attention of, const uint2* tiles, real* out, uint32_t out_stride, float* logsums) {
    tensor::forward<32>(of, tiles, out, out_stride, logsums);
}

KERNEL tensor_attention_forward_64(Attention of, const uint2* tiles, real* out, uint32_t out_stride, float* logsums) {
    tensor::forward<64>(of, tiles, out, out_stride, logsums);
}

KERNEL tensor_attention_backward_queries_32(Attention of, Backward from, const uint2* tiles, real* grad_q,
                                            uint32_t stride) {
    tensor::backward_queries<32>(of, from, tiles, grad_q, stride);
}

KERNEL tensor_attention_backward_queries_64(Attention of, Backward from, const uint2* tiles, real* grad_q,
                                            uint32_t stride) {
    tensor::backward_queries<64>(of, from, tiles, grad_q, stride);
}

KERNEL tensor_attention_backward_tokens_32(Attention of, Backward from, const uint2* tiles, real* grad_k, real* grad_v,
                                           uint32_t stride) {
    tensor::backward_tokens<32>(of, from, tiles, grad_k, grad_v, stride);
}

KERNEL tensor_attention_backward_tokens_64(Attention of, Backward from, const uint2* tiles, real* grad_k, real* grad_v,
                                           uint32_t stride) {
    tensor::backward_tokens<64>(of, from, tiles, grad_k, grad_v, stride);
}

#endif
