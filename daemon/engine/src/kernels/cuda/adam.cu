// The gradient's norm, and Adam and AdamW, over all parameters at once. ../adam.rs has the formulas.
#include "common.cuh"

// Some values of one parameter.
struct Piece {
    uint64_t start;
    uint32_t length;
    uint32_t parameter;
};

// The numbers of one update of one parameter.
struct Coefficients {
    float beta1, beta2, rest1, rest2, scale, step_size, inverse_root, epsilon, shrink, added;
};

// The sum of squares of a piece of the gradients: a block a piece.
KERNEL squares(const float* gradients, const Piece* pieces, double* sums) {
    __shared__ float of_warp[WARP];
    Piece piece = pieces[blockIdx.x];
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < piece.length; i += blockDim.x) {
        float g = gradients[piece.start + i];
        sum += g * g;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0;
        for (uint32_t warp = 0; warp < blockDim.x / WARP; ++warp) total += of_warp[warp];
        sums[blockIdx.x] = total;
    }
}

// norm[0] = the global norm; norm[1] = what gradients are multiplied by, min(1, most / (norm + 1e-6)). One block.
KERNEL clip(const double* sums, uint32_t count, double most, double* norm) {
    __shared__ double of_thread[256];
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
    of_thread[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0;
        for (uint32_t i = 0; i < blockDim.x; ++i) total += of_thread[i];
        norm[0] = sqrt(total);
        norm[1] = fmin(1.0, most / (norm[0] + 1e-6));
    }
}

// 0 for a number so small that it has fewer digits, as on the CPU.
__device__ inline float normal_or_zero(float x) { return fabsf(x) < 1.17549435e-38f ? 0.0f : x; }

// One update, a block a piece; `copy` is what products read. Does nothing when the norm is not finite.
KERNEL adam(float* values, const float* gradients, float* m, float* v, const Piece* pieces, const Coefficients* all,
            const double* norm, real* copy) {
    if (!isfinite(norm[0])) return;
    Piece piece = pieces[blockIdx.x];
    Coefficients by = all[piece.parameter];
    float scale = (float)norm[1];
    for (uint32_t offset = threadIdx.x; offset < piece.length; offset += blockDim.x) {
        uint64_t i = piece.start + offset;
        float p = values[i];
        float g = gradients[i] * scale + by.added * p;
        float mean = normal_or_zero(by.rest1 * g + by.beta1 * m[i]);
        float square = normal_or_zero(by.rest2 * g * g + by.beta2 * v[i]);
        m[i] = mean;
        v[i] = square;
        p = p * by.shrink - by.step_size * mean / (sqrtf(square) * by.inverse_root + by.epsilon);
        values[i] = p;
        store(copy + i, p);
    }
}
