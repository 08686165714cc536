// What all kernels share: the type of stored values, dropout, sums over a warp.
//
// Every file is compiled twice: with REAL_IS_BF16 hidden states, weights of products and their gradients are bfloat16,
// without it float32. All arithmetic is float32. Widths are even, so that values are read and written in pairs.
#pragma once

#ifdef EMULATED
#include "emulation.hpp"
#else
#include <cuda_bf16.h>
#include <stdint.h>
#define KERNEL extern "C" __global__ void
#define DYNAMIC_SHARED(name) extern __shared__ float name[]
#endif

constexpr uint32_t WARP = 32;
constexpr uint32_t FULL = 0xffffffffu;

#ifdef REAL_IS_BF16
typedef __nv_bfloat16 real;

__device__ inline float load(const real* from) { return __bfloat162float(*from); }
__device__ inline void store(real* to, float value) { *to = __float2bfloat16(value); }

__device__ inline float2 load2(const real* from) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(from));
}

__device__ inline void store2(real* to, float2 pair) {
    *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(pair.x, pair.y);
}
#else
typedef float real;
__device__ inline void store(real* to, float value) { *to = value; }
#endif

__device__ inline float load(const float* from) { return *from; }
__device__ inline float2 load2(const float* from) { return *reinterpret_cast<const float2*>(from); }
__device__ inline void store2(float* to, float2 pair) { *reinterpret_cast<float2*>(to) = pair; }

// A dropout at one place of the model at one position in training; a threshold of 0 drops nothing. The same numbers as
// on the CPU: ../dropout.rs says how an index leads to a factor.
struct Dropout {
    uint32_t key[2];
    uint32_t site;
    uint32_t position[2];
    uint32_t threshold;
    float scale;
};

// Word `which` of a random block: Philox 4x32-10 (Salmon et al. 2011).
__device__ inline uint32_t random_word(const Dropout& dropout, uint32_t block, uint32_t which) {
    uint32_t counter[4] = {block, dropout.site, dropout.position[0], dropout.position[1]};
    uint32_t key[2] = {dropout.key[0], dropout.key[1]};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        uint32_t high0 = __umulhi(counter[0], 0xD2511F53u), low0 = counter[0] * 0xD2511F53u;
        uint32_t high1 = __umulhi(counter[2], 0xCD9E8D57u), low1 = counter[2] * 0xCD9E8D57u;
        counter[0] = high1 ^ counter[1] ^ key[0];
        counter[2] = high0 ^ counter[3] ^ key[1];
        counter[1] = low1;
        counter[3] = low0;
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return which == 0 ? counter[0] : which == 1 ? counter[1] : which == 2 ? counter[2] : counter[3];
}

// What the value at an index is multiplied by.
__device__ inline float factor(const Dropout& dropout, uint64_t index) {
    if (dropout.threshold == 0) return 1.0f;
    uint32_t place = (uint32_t)index & 127u;
    uint32_t word = random_word(dropout, (uint32_t)(index >> 7) * 16u + place % 32u / 2u, place / 32u);
    uint32_t half = place % 2u ? word >> 16 : word & 0xffffu;
    return half < dropout.threshold ? 0.0f : dropout.scale;
}

// The same for an even index and the one behind it.
__device__ inline float2 factor2(const Dropout& dropout, uint64_t index) {
    if (dropout.threshold == 0) return make_float2(1.0f, 1.0f);
    uint32_t place = (uint32_t)index & 127u;
    uint32_t word = random_word(dropout, (uint32_t)(index >> 7) * 16u + place % 32u / 2u, place / 32u);
    return make_float2((word & 0xffffu) < dropout.threshold ? 0.0f : dropout.scale,
                       (word >> 16) < dropout.threshold ? 0.0f : dropout.scale);
}

// Sum and largest over the lanes of a warp, known to all of them.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL, x, offset);
    return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, offset));
    return x;
}

// The number of this thread in the grid.
__device__ inline uint64_t thread_number() { return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; }
