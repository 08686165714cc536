// What stands around matrix products: biases and their gradients, activations, dropout.
#include "common.cuh"

// x += bias, in pairs.
KERNEL add_bias(real* x, const float* bias, uint64_t pairs, uint32_t width) {
    uint64_t i = 2 * thread_number();
    if (i >= 2 * pairs) return;
    float2 v = load2(x + i), b = load2(bias + i % width);
    store2(x + i, make_float2(v.x + b.x, v.y + b.y));
}

// The same one by one in float32, for widths that may be odd.
KERNEL add_bias_to_logits(float* x, const float* bias, uint64_t count, uint32_t width) {
    uint64_t i = thread_number();
    if (i < count) x[i] += bias[i % width];
}

// The distribution function of the normal distribution.
__device__ inline float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

// What takes the place of the distribution function in GELU's approximation by tanh: (1 + tanh(z)) / 2.
__device__ inline float tanh_cdf(float x) {
    return 0.5f * (1.0f + tanhf(0.79788456f * x * (1.0f + 0.044715f * x * x)));
}

// inner += bias, active = gelu(inner) (Hendrycks and Gimpel 2016): the exact form, or the approximation by tanh.
KERNEL gelu_forward(real* inner, const float* bias, real* active, uint64_t pairs, uint32_t width, uint32_t is_tanh) {
    uint64_t i = 2 * thread_number();
    if (i >= 2 * pairs) return;
    float2 x = load2(inner + i), b = load2(bias + i % width);
    x = make_float2(x.x + b.x, x.y + b.y);
    store2(inner + i, x);
    float2 share = is_tanh ? make_float2(tanh_cdf(x.x), tanh_cdf(x.y)) : make_float2(normal_cdf(x.x), normal_cdf(x.y));
    store2(active + i, make_float2(x.x * share.x, x.y * share.y));
}

__device__ inline float exact_slope(float x) { return normal_cdf(x) + x * 0.39894228f * expf(-0.5f * x * x); }

__device__ inline float tanh_slope(float x) {
    float s = tanh_cdf(x);
    return s + x * s * (1.0f - s) * 1.5957691f * (1.0f + 0.134145f * x * x);
}

__device__ inline float gelu_slope(float x, uint32_t is_tanh) { return is_tanh ? tanh_slope(x) : exact_slope(x); }

// In place of the gradient of gelu(inner), that of inner.
KERNEL gelu_backward(real* grad, const real* inner, uint64_t pairs, uint32_t is_tanh) {
    uint64_t i = 2 * thread_number();
    if (i >= 2 * pairs) return;
    float2 g = load2(grad + i), x = load2(inner + i);
    store2(grad + i, make_float2(g.x * gelu_slope(x.x, is_tanh), g.y * gelu_slope(x.y, is_tanh)));
}

// x times the dropout's factors.
KERNEL drop_out(real* x, Dropout dropout, uint64_t pairs) {
    uint64_t i = 2 * thread_number();
    if (i >= 2 * pairs) return;
    float2 v = load2(x + i), f = factor2(dropout, i);
    store2(x + i, make_float2(v.x * f.x, v.y * f.y));
}

// active = activation(active + bias), dropped = dropout(active); the activation is tanh, or relu.
KERNEL head_forward(real* active, const float* bias, uint32_t is_relu, Dropout dropout, real* dropped, uint64_t count,
                    uint32_t width) {
    uint64_t i = thread_number();
    if (i >= count) return;
    float x = load(active + i) + bias[i % width];
    x = is_relu ? fmaxf(x, 0.0f) : tanhf(x);
    store(active + i, x);
    store(dropped + i, x * factor(dropout, i));
}

// In place of the gradient of `dropped`, that of the activation's input.
KERNEL head_backward(real* grad, const real* active, uint32_t is_relu, Dropout dropout, uint64_t count) {
    uint64_t i = thread_number();
    if (i >= count) return;
    float y = load(active + i);
    float slope = is_relu ? (y > 0.0f ? 1.0f : 0.0f) : 1.0f - y * y;
    store(grad + i, load(grad + i) * factor(dropout, i) * slope);
}

// Values as products read them.
KERNEL convert(const float* from, real* to, uint64_t count) {
    uint64_t i = thread_number();
    if (i < count) store(to + i, from[i]);
}

// Sums of columns: a block takes a piece of the columns (x) and of the rows (y), and writes to `parts`,
// [pieces of rows, width].
KERNEL column_parts(const real* x, float* parts, uint32_t rows, uint32_t width, uint32_t rows_of_block) {
    uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    uint32_t end = min(rows, (blockIdx.y + 1) * rows_of_block);
    float sum = 0.0f;
    for (uint32_t row = blockIdx.y * rows_of_block; row < end; ++row) sum += load(x + (uint64_t)row * width + c);
    parts[(uint64_t)blockIdx.y * width + c] = sum;
}

// Adds the sum of `count` parts, [count, stride], to `out`, [width].
KERNEL add_parts(const float* parts, float* out, uint32_t count, uint32_t stride, uint32_t width) {
    uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    float sum = 0.0f;
    for (uint32_t part = 0; part < count; ++part) sum += parts[(uint64_t)part * stride + c];
    out[c] += sum;
}
