// All kernels: what is compiled, once with REAL_IS_BF16 and once without.
#include "adam.cu"
#include "attention.cu"
#include "attention_tensor.cu"
#include "embedding.cu"
#include "layer_norm.cu"
#include "linear.cu"
