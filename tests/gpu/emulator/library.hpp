// What the shared library of emulated kernels exports. Kernels are launched by name, with their argument struct.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

extern "C" {

// Runs a kernel on the calling thread. 0: it ran; 1: there is no such kernel; 2: it made a mistake, which
// `emulated_error` tells.
int emulated_launch(const char* kernel, u32 grid_x, u32 grid_y, u32 grid_z, u32 threads, u32 shared_bytes,
                    const void* args);

// What went wrong in the calling thread's last launch; valid until its next one.
const char* emulated_error();

// Each struct's size and the offset of each of its fields, in JSON:
// {"EmbedArgs": {"size": 56, "fields": {"table": 0, ...}}, ...}
const char* emulated_layout();

// The seed of the orders in which threads run, and whether asynchronous copies arrive at once or as late as they may.
// They hold for all threads of the host from now on.
void emulated_settings(u64 seed, int eager_copies);

// Bytes of shared memory that attention_whole and attention_split need for heads of this size.
u32 emulated_attention_shared_bytes(u32 head);

// out[r][o] (+)= the sum over i, ascending and in f32, of x[r][i] * weights[o][i].
void emulated_product(const u16* weights, const u16* x, float* out, u32 outputs, u32 inputs, u32 rows, int add);

// Of all launches of the calling thread: cycles that ldmatrix lost to conflicts of memory banks, and instructions of
// whole warps.
u64 emulated_bank_conflicts();
u64 emulated_warp_instructions();

}
