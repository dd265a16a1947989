/* What kernels of several files do. */
#ifndef CUDA_OPS_H
#define CUDA_OPS_H

#include "kernels/cuda/platform.h"

/* Of all threads of a block of whole warps, in each of them. */
__device__ inline float block_sum(float x)
{
    __shared__ float of_warp[32];
    uint32_t warps = blockDim.x / 32;
    float sum = 0;

    x = lanes_sum<32>(x);
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = x;
    }
    __syncthreads();
    for (uint32_t i = 0; i < warps; i++) {
        sum += of_warp[i];
    }
    __syncthreads(); /* of_warp may be used again */
    return sum;
}

/* SwiGLU's, or GEGLU's with the gelu by tanh. */
__device__ inline float activation(float x, bool gelu)
{
    if (gelu) {
        return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    }
    return x / (1 + expf(-x));
}

#endif
