// Runs kernels on a CPU, for tests on machines without a GPU: the threads of a block are coroutines that take turns at
// barriers and at exchanges inside a warp, blocks run one after the other. It shows that a kernel computes what it
// should; not that the compiler for GPUs accepts it, and nothing of its speed.
//
// Threads that wait for each other in vain end the process with a message. Shared memory starts as NaN.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <utility>
#include <vector>

#define __device__
#define __shared__ static thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define KERNEL extern "C" void
#define DYNAMIC_SHARED(name) float* name = emulation::block.shared.data()

struct uint2 { uint32_t x, y; };
struct uint3 { uint32_t x, y, z; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct __nv_bfloat16 { uint16_t bits; };
struct __nv_bfloat162 { __nv_bfloat16 x, y; };

inline float __bfloat162float(__nv_bfloat16 x) {
    uint32_t bits = (uint32_t)x.bits << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest, and of two equally near ones to the even one.
inline __nv_bfloat16 __float2bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {__bfloat162float(x.x), __bfloat162float(x.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
inline uint32_t __umulhi(uint32_t x, uint32_t y) { return (uint32_t)((uint64_t)x * y >> 32); }
inline uint32_t min(uint32_t x, uint32_t y) { return x < y ? x : y; }

namespace emulation {

// Where threads wait until all that are still there have come.
struct Barrier {
    uint32_t there = 0, arrived = 0;
    uint64_t opened = 0;

    void open_if_full() {
        if (arrived == there && there > 0) {
            arrived = 0;
            ++opened;
        }
    }
};

struct Warp {
    Barrier barrier;
    uint32_t slots[32];
    uint32_t factors[32][6];
    const void* rows[32];
};

struct Thread {
    // Where it starts, and then where it stands: jumps are many times faster than changes of context.
    ucontext_t context;
    jmp_buf place;
    std::vector<char> stack;
    bool has_started, is_done;
    // What it waits for, and how often that had opened when it came.
    const Barrier* barrier;
    uint64_t opened;
};

struct Block {
    uint3 block_index, thread_index, block_size;
    std::vector<float> shared;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Barrier barrier;
    jmp_buf scheduler;
    void (*body)(void*);
    void* data;

    Warp& warp() { return warps[thread_index.x / 32]; }

    void wait(Barrier& at) {
        uint32_t me = thread_index.x;
        uint64_t opened = at.opened;
        ++at.arrived;
        at.open_if_full();
        if (at.opened != opened) return;
        threads[me].barrier = &at;
        threads[me].opened = opened;
        if (_setjmp(threads[me].place) == 0) _longjmp(scheduler, 1);
    }

    // Lets a thread go on until it waits or is done.
    __attribute__((noinline)) void resume(Thread& thread) {
        if (_setjmp(scheduler) != 0) return;
        if (thread.has_started) _longjmp(thread.place, 1);
        thread.has_started = true;
        setcontext(&thread.context);
    }

    void run(uint32_t count);
};

inline thread_local Block block;

inline void enter() {
    block.body(block.data);
    Thread& me = block.threads[block.thread_index.x];
    me.is_done = true;
    for (Barrier* barrier : {&block.barrier, &block.warp().barrier}) {
        --barrier->there;
        barrier->open_if_full();
    }
    _longjmp(block.scheduler, 1);
}

inline void Block::run(uint32_t count) {
    if (threads.size() < count) threads.resize(count);
    warps.assign((count + 31) / 32, Warp());
    barrier = Barrier();
    barrier.there = count;
    std::fill(shared.begin(), shared.end(), NAN);
    for (uint32_t i = 0; i < count; ++i) {
        Thread& thread = threads[i];
        if (thread.stack.empty()) thread.stack.resize(64 << 10);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, enter, 0);
        thread.has_started = thread.is_done = false;
        thread.barrier = nullptr;
        ++warps[i / 32].barrier.there;
    }
    for (uint32_t left = count; left > 0;) {
        bool has_moved = false;
        for (uint32_t i = 0; i < count; ++i) {
            Thread& thread = threads[i];
            if (thread.is_done || (thread.barrier && thread.barrier->opened == thread.opened)) continue;
            has_moved = true;
            thread.barrier = nullptr;
            thread_index.x = i;
            resume(thread);
            left -= thread.is_done;
        }
        if (!has_moved) {
            fprintf(stderr, "threads of block %u, %u wait for each other in vain\n", block_index.x, block_index.y);
            abort();
        }
    }
}

template <typename... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

template <typename... P>
void launch(void (*kernel)(P...), const uint32_t* grid, uint32_t threads, uint32_t shared_bytes, void** arguments) {
    struct Data {
        void (*kernel)(P...);
        void** arguments;
    } data = {kernel, arguments};
    block.data = &data;
    block.body = [](void* data) {
        Data* of = static_cast<Data*>(data);
        call(of->kernel, of->arguments, std::index_sequence_for<P...>());
    };
    block.shared.resize(shared_bytes / sizeof(float));
    block.block_size = {threads, 1, 1};
    for (uint32_t y = 0; y < grid[1]; ++y) {
        for (uint32_t x = 0; x < grid[0]; ++x) {
            block.block_index = {x, y, 0};
            block.run(threads);
        }
    }
}

}  // namespace emulation

#define threadIdx (emulation::block.thread_index)
#define blockIdx (emulation::block.block_index)
#define blockDim (emulation::block.block_size)

inline void __syncthreads() { emulation::block.wait(emulation::block.barrier); }
inline void __syncwarp() { emulation::block.wait(emulation::block.warp().barrier); }

inline float __shfl_xor_sync(uint32_t, float value, int offset) {
    emulation::Warp& warp = emulation::block.warp();
    uint32_t lane = threadIdx.x % 32, bits;
    memcpy(&warp.slots[lane], &value, sizeof value);
    __syncwarp();
    bits = warp.slots[lane ^ offset];
    __syncwarp();
    memcpy(&value, &bits, sizeof value);
    return value;
}

namespace emulation {

// PTX `mma.sync.m16n8k16`: c += a b, 16 x 16 by 16 x 8, as the manual lays them out over lanes.
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Warp& warp = block.warp();
    uint32_t lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) warp.factors[lane][i] = a[i];
    warp.factors[lane][4] = b0;
    warp.factors[lane][5] = b1;
    __syncwarp();
    auto half = [](uint32_t pair, uint32_t which) {
        return __bfloat162float({(uint16_t)(pair >> 16 * which)});
    };
    for (uint32_t i = 0; i < 4; ++i) {
        uint32_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (uint32_t k = 0; k < 16; ++k) {
            uint32_t of_a = warp.factors[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            uint32_t of_b = warp.factors[column * 4 + k % 8 / 2][4 + k / 8];
            c[i] += half(of_a, k % 2) * half(of_b, k % 2);
        }
    }
    __syncwarp();
}

// PTX `ldmatrix.x4`: four 8 x 8 tiles of 16-bit values, whose rows the lanes give.
inline void load(uint32_t (&tiles)[4], const void* row, bool is_turned) {
    Warp& warp = block.warp();
    uint32_t lane = threadIdx.x % 32;
    if ((uintptr_t)row % 16 != 0) {
        fprintf(stderr, "a row of a tile is not aligned\n");
        abort();
    }
    warp.rows[lane] = row;
    __syncwarp();
    for (uint32_t i = 0; i < 4; ++i) {
        auto value = [&](uint32_t row, uint32_t column) {
            return (uint32_t) static_cast<const uint16_t*>(warp.rows[8 * i + row])[column];
        };
        uint32_t one = lane / 4, two = lane % 4 * 2;
        tiles[i] = is_turned ? value(two, one) | value(two + 1, one) << 16 : value(one, two) | value(one, two + 1) << 16;
    }
    __syncwarp();
}

inline void load_tiles(uint32_t (&tiles)[4], const void* row) { load(tiles, row, false); }
inline void load_turned_tiles(uint32_t (&tiles)[4], const void* row) { load(tiles, row, true); }

}  // namespace emulation

#define EMULATE(name)                                                                                            \
    extern "C" void emulate_##name(const uint32_t* grid, uint32_t threads, uint32_t shared, void** arguments) { \
        emulation::launch(name, grid, threads, shared, arguments);                                               \
    }
