// Attention over packed sequences. The matrix of scores exists in no memory: a block goes over it in tiles of 32 x 32,
// with the running softmax of Milakov and Gimelshein (2018) forward, and with the scores computed again backward (Dao et
// al. 2022). Nothing is added up by atomic operations, so results are the same to the bit from run to run.
//
// A block has 8 warps. Each takes 4 rows of its own (queries, or in the pass for keys and values, keys), against 32 rows
// of the other side at a time, one a lane. Plain float32 arithmetic, without tensor cores.
#pragma once
#include "common.cuh"

constexpr uint32_t WARPS = 8;
constexpr uint32_t OWN = 4;
constexpr uint32_t TILE = WARPS * OWN;

// Where things are. Of sequence s, queries are the rows queries[s] to queries[s + 1] - 1 of their matrix, keys and
// values the rows tokens[s] to tokens[s + 1] - 1 of theirs. Heads lie side by side, `size` columns each.
struct Attention {
    const real* q;
    const real* k;
    const real* v;
    uint32_t q_stride;
    uint32_t kv_stride;
    const uint32_t* queries;
    const uint32_t* tokens;
    // The index of each sequence's first probability in the dropout's stream.
    const uint64_t* probabilities;
    uint32_t size;
    uint32_t rows;
    float scale;
    Dropout dropout;
};

// One head of one sequence: its first query and token, how many there are, and where their rows start.
struct Head {
    uint32_t query, queries, token, tokens, column;
    uint64_t probability;
    const real* q;
    const real* k;
    const real* v;
};

__device__ inline Head head_of(const Attention& of, uint32_t sequence) {
    Head head;
    head.query = of.queries[sequence];
    head.queries = of.queries[sequence + 1] - head.query;
    head.token = of.tokens[sequence];
    head.tokens = of.tokens[sequence + 1] - head.token;
    head.column = blockIdx.y * of.size;
    uint64_t of_head = ((uint64_t)head.tokens * head.tokens + 127) / 128 * 128;
    head.probability = of.probabilities[sequence] + blockIdx.y * of_head;
    head.q = of.q + (uint64_t)head.query * of.q_stride + head.column;
    head.k = of.k + (uint64_t)head.token * of.kv_stride + head.column;
    head.v = of.v + (uint64_t)head.token * of.kv_stride + head.column;
    return head;
}

// Rows of one head, times a scale, 0 where there are none: as lanes read them.
template <int D>
__device__ inline void fill_tile(float (*tile)[D + 1], const real* from, uint32_t stride, uint32_t first, uint32_t rows,
                                 uint32_t size, float scale) {
    for (uint32_t i = threadIdx.x; i < WARP * D; i += blockDim.x) {
        uint32_t row = i / D, d = i % D;
        bool is_there = first + row < rows && d < size;
        tile[row][d] = is_there ? scale * load(from + (uint64_t)(first + row) * stride + d) : 0.0f;
    }
}

// The rows of a block's own, four of a warp in one vector.
template <int D>
__device__ inline void fill_own(float4 (*own)[D], const real* from, uint32_t stride, uint32_t first, uint32_t rows,
                                uint32_t size, float scale) {
    for (uint32_t i = threadIdx.x; i < TILE * D; i += blockDim.x) {
        uint32_t row = i / D, d = i % D;
        bool is_there = first + row < rows && d < size;
        float x = is_there ? scale * load(from + (uint64_t)(first + row) * stride + d) : 0.0f;
        reinterpret_cast<float*>(&own[row / OWN][d])[row % OWN] = x;
    }
}

// The products of a row of the tile, this lane's, with the four of the warp.
template <int D>
__device__ inline void products(const float* row, const float4* own, float (&result)[OWN]) {
    for (uint32_t i = 0; i < OWN; ++i) result[i] = 0.0f;
#pragma unroll 8
    for (int d = 0; d < D; ++d) {
        float x = row[d];
        float4 o = own[d];
        result[0] += x * o.x;
        result[1] += x * o.y;
        result[2] += x * o.z;
        result[3] += x * o.w;
    }
}

// sums[i][.] += the sum over the tile's rows j of weights[j].i times the row; this lane has every 32nd column.
template <int D>
__device__ inline void accumulate(const float (*tile)[D + 1], const float4* weights, float (&sums)[OWN][D / 32]) {
    uint32_t lane = threadIdx.x % WARP;
#pragma unroll 4
    for (uint32_t j = 0; j < WARP; ++j) {
        float4 w = weights[j];
#pragma unroll
        for (int e = 0; e < D / 32; ++e) {
            float x = tile[j][lane + 32 * e];
            sums[0][e] += w.x * x;
            sums[1][e] += w.y * x;
            sums[2][e] += w.z * x;
            sums[3][e] += w.w * x;
        }
    }
}

// Writes the sums of the warp's rows, each times a scale.
template <int D>
__device__ inline void write_own(real* to, uint32_t stride, uint32_t first, uint32_t rows, uint32_t size,
                                 const float (&sums)[OWN][D / 32], const float (&scales)[OWN]) {
    uint32_t lane = threadIdx.x % WARP;
    for (uint32_t i = 0; i < OWN; ++i) {
        if (first + i >= rows) continue;
        for (int e = 0; e < D / 32; ++e) {
            uint32_t d = lane + 32 * e;
            if (d < size) store(to + (uint64_t)(first + i) * stride + d, sums[i][e] * scales[i]);
        }
    }
}

// out = dropout(softmax(q k^T / sqrt(size))) v, and the logarithm of each softmax's denominator, [heads, rows].
template <int D>
__device__ inline void forward(const Attention& of, const uint2* tiles, real* out, uint32_t out_stride, float* logsums) {
    __shared__ float4 own[WARPS][D];
    __shared__ float keys[WARP][D + 1], values[WARP][D + 1];
    __shared__ float4 weights[WARPS][WARP];
    uint2 place = tiles[blockIdx.x];
    Head head = head_of(of, place.x);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first = place.y + warp * OWN;
    bool has_rows = first < head.queries;
    fill_own<D>(own, head.q, of.q_stride, place.y, head.queries, of.size, of.scale);
    float most[OWN], totals[OWN], sums[OWN][D / 32];
    for (uint32_t i = 0; i < OWN; ++i) {
        most[i] = -INFINITY;
        totals[i] = 0.0f;
        for (int e = 0; e < D / 32; ++e) sums[i][e] = 0.0f;
    }
    for (uint32_t start = 0; start < head.tokens; start += WARP) {
        __syncthreads();
        fill_tile<D>(keys, head.k, of.kv_stride, start, head.tokens, of.size, 1.0f);
        fill_tile<D>(values, head.v, of.kv_stride, start, head.tokens, of.size, 1.0f);
        __syncthreads();
        if (!has_rows) continue;
        float scores[OWN];
        products<D>(keys[lane], own[warp], scores);
        uint32_t token = start + lane;
        float dropped[OWN];
        for (uint32_t i = 0; i < OWN; ++i) {
            float score = token < head.tokens ? scores[i] : -INFINITY;
            float larger = fmaxf(most[i], warp_max(score));
            float p = expf(score - larger), shrink = expf(most[i] - larger);
            totals[i] = totals[i] * shrink + warp_sum(p);
            most[i] = larger;
            for (int e = 0; e < D / 32; ++e) sums[i][e] *= shrink;
            dropped[i] = p * factor(of.dropout, head.probability + (uint64_t)(first + i) * head.tokens + token);
        }
        weights[warp][lane] = make_float4(dropped[0], dropped[1], dropped[2], dropped[3]);
        __syncwarp();
        accumulate<D>(values, weights[warp], sums);
        __syncwarp();
    }
    if (!has_rows) return;
    float scales[OWN];
    for (uint32_t i = 0; i < OWN; ++i) {
        scales[i] = 1.0f / totals[i];
        if (lane == 0 && first + i < head.queries) {
            logsums[(uint64_t)blockIdx.y * of.rows + head.query + first + i] = most[i] + logf(totals[i]);
        }
    }
    real* to = out + (uint64_t)head.query * out_stride + head.column;
    write_own<D>(to, out_stride, first, head.queries, of.size, sums, scales);
}

KERNEL attention_forward_32(Attention of, const uint2* tiles, real* out, uint32_t out_stride, float* logsums) {
    forward<32>(of, tiles, out, out_stride, logsums);
}

KERNEL attention_forward_64(Attention of, const uint2* tiles, real* out, uint32_t out_stride, float* logsums) {
    forward<64>(of, tiles, out, out_stride, logsums);
}

// The product of each row of the result with its gradient, a head at a time, [heads, rows]: a warp a row, a head a y.
KERNEL attention_along(const real* out, const real* grad, float* along, uint32_t size, uint32_t rows, uint32_t stride) {
    uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    uint64_t at = (uint64_t)row * stride + blockIdx.y * size;
    float sum = 0.0f;
    for (uint32_t d = lane; d < size; d += WARP) sum += load(out + at + d) * load(grad + at + d);
    sum = warp_sum(sum);
    if (lane == 0) along[(uint64_t)blockIdx.y * rows + row] = sum;
}

// What the passes backward read beside the inputs: the gradient of the result, and two numbers of each row and head.
struct Backward {
    const real* grad;
    uint32_t stride;
    const float* logsums;
    const float* along;

    // Where the rows of a head start.
    __device__ const real* of(const Head& head) const { return grad + (uint64_t)head.query * stride + head.column; }
};

// The gradient of the queries.
template <int D>
__device__ inline void backward_queries(const Attention& of, const Backward& from, const uint2* tiles, real* grad_q,
                                        uint32_t grad_stride) {
    __shared__ float4 own[WARPS][D], own_grad[WARPS][D];
    __shared__ float keys[WARP][D + 1], values[WARP][D + 1];
    __shared__ float4 weights[WARPS][WARP];
    uint2 place = tiles[blockIdx.x];
    Head head = head_of(of, place.x);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first = place.y + warp * OWN;
    bool has_rows = first < head.queries;
    const real* grad = from.of(head);
    fill_own<D>(own, head.q, of.q_stride, place.y, head.queries, of.size, of.scale);
    fill_own<D>(own_grad, grad, from.stride, place.y, head.queries, of.size, 1.0f);
    float logsums[OWN], along[OWN], sums[OWN][D / 32], scales[OWN];
    for (uint32_t i = 0; i < OWN; ++i) {
        uint64_t row = (uint64_t)blockIdx.y * of.rows + head.query + min(first + i, head.queries - 1);
        logsums[i] = from.logsums[row];
        along[i] = from.along[row];
        scales[i] = of.scale;
        for (int e = 0; e < D / 32; ++e) sums[i][e] = 0.0f;
    }
    for (uint32_t start = 0; start < head.tokens; start += WARP) {
        __syncthreads();
        fill_tile<D>(keys, head.k, of.kv_stride, start, head.tokens, of.size, 1.0f);
        fill_tile<D>(values, head.v, of.kv_stride, start, head.tokens, of.size, 1.0f);
        __syncthreads();
        if (!has_rows) continue;
        float scores[OWN], of_p[OWN], slopes[OWN];
        products<D>(keys[lane], own[warp], scores);
        products<D>(values[lane], own_grad[warp], of_p);
        uint32_t token = start + lane;
        for (uint32_t i = 0; i < OWN; ++i) {
            float p = token < head.tokens ? expf(scores[i] - logsums[i]) : 0.0f;
            float f = factor(of.dropout, head.probability + (uint64_t)(first + i) * head.tokens + token);
            slopes[i] = p * (of_p[i] * f - along[i]);
        }
        weights[warp][lane] = make_float4(slopes[0], slopes[1], slopes[2], slopes[3]);
        __syncwarp();
        accumulate<D>(keys, weights[warp], sums);
        __syncwarp();
    }
    if (!has_rows) return;
    real* to = grad_q + (uint64_t)head.query * grad_stride + head.column;
    write_own<D>(to, grad_stride, first, head.queries, of.size, sums, scales);
}

KERNEL attention_backward_queries_32(Attention of, Backward from, const uint2* tiles, real* grad_q, uint32_t stride) {
    backward_queries<32>(of, from, tiles, grad_q, stride);
}

KERNEL attention_backward_queries_64(Attention of, Backward from, const uint2* tiles, real* grad_q, uint32_t stride) {
    backward_queries<64>(of, from, tiles, grad_q, stride);
}

// The gradients of keys and values.
template <int D>
__device__ inline void backward_tokens(const Attention& of, const Backward& from, const uint2* tiles, real* grad_k,
                                       real* grad_v, uint32_t grad_stride) {
    __shared__ float4 own_keys[WARPS][D], own_values[WARPS][D];
    __shared__ float queries[WARP][D + 1], grads[WARP][D + 1];
    __shared__ float4 of_keys[WARPS][WARP], of_values[WARPS][WARP];
    uint2 place = tiles[blockIdx.x];
    Head head = head_of(of, place.x);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first = place.y + warp * OWN;
    bool has_rows = first < head.tokens;
    const real* grad = from.of(head);
    fill_own<D>(own_keys, head.k, of.kv_stride, place.y, head.tokens, of.size, 1.0f);
    fill_own<D>(own_values, head.v, of.kv_stride, place.y, head.tokens, of.size, 1.0f);
    float key_sums[OWN][D / 32], value_sums[OWN][D / 32], scales[OWN];
    for (uint32_t i = 0; i < OWN; ++i) {
        scales[i] = 1.0f;
        for (int e = 0; e < D / 32; ++e) key_sums[i][e] = value_sums[i][e] = 0.0f;
    }
    for (uint32_t start = 0; start < head.queries; start += WARP) {
        __syncthreads();
        // With the scale in the queries, the gradient of the keys has it too.
        fill_tile<D>(queries, head.q, of.q_stride, start, head.queries, of.size, of.scale);
        fill_tile<D>(grads, grad, from.stride, start, head.queries, of.size, 1.0f);
        __syncthreads();
        if (!has_rows) continue;
        float scores[OWN], of_p[OWN], slopes[OWN], dropped[OWN];
        products<D>(queries[lane], own_keys[warp], scores);
        products<D>(grads[lane], own_values[warp], of_p);
        uint32_t query = start + lane;
        bool is_there = query < head.queries;
        uint64_t row = (uint64_t)blockIdx.y * of.rows + head.query + (is_there ? query : 0);
        float logsum = from.logsums[row], along = from.along[row];
        for (uint32_t i = 0; i < OWN; ++i) {
            float p = is_there ? expf(scores[i] - logsum) : 0.0f;
            float f = factor(of.dropout, head.probability + (uint64_t)query * head.tokens + first + i);
            slopes[i] = p * (of_p[i] * f - along);
            dropped[i] = p * f;
        }
        of_keys[warp][lane] = make_float4(slopes[0], slopes[1], slopes[2], slopes[3]);
        of_values[warp][lane] = make_float4(dropped[0], dropped[1], dropped[2], dropped[3]);
        __syncwarp();
        accumulate<D>(queries, of_keys[warp], key_sums);
        accumulate<D>(grads, of_values[warp], value_sums);
        __syncwarp();
    }
    if (!has_rows) return;
    uint64_t at = (uint64_t)head.token * grad_stride + head.column;
    write_own<D>(grad_k + at, grad_stride, first, head.tokens, of.size, key_sums, scales);
    write_own<D>(grad_v + at, grad_stride, first, head.tokens, of.size, value_sums, scales);
}

KERNEL attention_backward_tokens_32(Attention of, Backward from, const uint2* tiles, real* grad_k, real* grad_v,
                                    uint32_t stride) {
    backward_tokens<32>(of, from, tiles, grad_k, grad_v, stride);
}

KERNEL attention_backward_tokens_64(Attention of, Backward from, const uint2* tiles, real* grad_k, real* grad_v,
                                    uint32_t stride) {
    backward_tokens<64>(of, from, tiles, grad_k, grad_v, stride);
}
