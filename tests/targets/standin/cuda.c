// A CUDA runtime without a GPU: memory is the host's, and kernels do nothing.
//
// ONNX Runtime's CUDA provider calls the libraries of CUDA by some hundred names. Under these its kernels are
// made, weights laid out, inputs checked and steps run, and every number that comes out is worthless. What is
// here has something to answer; build.py adds a function that returns 0 for every other name.
//
// STANDIN_SM is the compute capability: 89, 90, 120.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
typedef int Status;  // 0 is success everywhere

// Streams, events and handles are never looked into.
static void* handle(void) {
    static char bytes[4096];
    return bytes;
}

// ---- the device

// cudaDeviceProp of CUDA 13, as far as it is read.
typedef struct {
    char name[256];
    char uuid[16];
    char luid[8];
    unsigned luid_mask;
    size_t global_memory;
    size_t shared_memory_per_block;
    int registers_per_block;
    int warp_size;
    size_t pitch;
    int threads_per_block;
    int block_size[3];
    int grid_size[3];
    size_t constant_memory;
    int major;
    int minor;
    size_t texture_alignment;
    size_t texture_pitch;
    int multiprocessors;
} Properties;

EXPORT Status cudaGetDeviceProperties(Properties* out, int device) {
    (void)device;
    memset(out, 0, sizeof *out);
    strcpy(out->name, "stand-in");
    out->global_memory = 80ull << 30;
    out->shared_memory_per_block = 48 << 10;
    out->registers_per_block = 65536;
    out->warp_size = 32;
    out->pitch = 0x7fffffff;
    out->threads_per_block = 1024;
    out->block_size[0] = out->block_size[1] = 1024;
    out->block_size[2] = 64;
    out->grid_size[0] = 0x7fffffff;
    out->grid_size[1] = out->grid_size[2] = 65535;
    out->constant_memory = 64 << 10;
    out->major = STANDIN_SM / 10;
    out->minor = STANDIN_SM % 10;
    out->texture_alignment = 512;
    out->texture_pitch = 32;
    out->multiprocessors = 132;
    return 0;
}

EXPORT Status cudaGetDeviceProperties_v2(Properties* out, int device) {
    return cudaGetDeviceProperties(out, device);
}

// The numbers are those of cudaDeviceAttr.
EXPORT Status cudaDeviceGetAttribute(int* out, int attribute, int device) {
    (void)device;
    switch (attribute) {
        case 1: *out = 1024; break;            // threads of a block
        case 16: *out = 132; break;            // multiprocessors
        case 39: *out = 2048; break;           // threads of a multiprocessor
        case 75: *out = STANDIN_SM / 10; break;
        case 76: *out = STANDIN_SM % 10; break;
        case 81: *out = 228 << 10; break;      // shared memory of a multiprocessor
        case 97: *out = 227 << 10; break;      // shared memory of a block that asks for it
        default: *out = 1;
    }
    return 0;
}

EXPORT Status cudaGetDeviceCount(int* out) { return *out = 1, 0; }
EXPORT Status cudaGetDevice(int* out) { return *out = 0, 0; }
EXPORT Status cudaDriverGetVersion(int* out) { return *out = 13000, 0; }
EXPORT Status cudaRuntimeGetVersion(int* out) { return *out = 13000, 0; }
EXPORT Status cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { return *least = *greatest = 0, 0; }
EXPORT const char* cudaGetErrorString(Status status) { return status ? "stand-in" : "no error"; }
EXPORT const char* cudaGetErrorName(Status status) { return status ? "cudaErrorStandIn" : "cudaSuccess"; }

// ---- memory

EXPORT Status cudaMemGetInfo(size_t* available, size_t* total) {
    *available = 70ull << 30;
    *total = 80ull << 30;
    return 0;
}

EXPORT Status cudaMalloc(void** out, size_t size) {
    *out = NULL;
    return posix_memalign(out, 256, size ? size : 256) ? 2 : 0;
}

EXPORT Status cudaMallocAsync(void** out, size_t size, void* stream) { return (void)stream, cudaMalloc(out, size); }
EXPORT Status cudaMallocFromPoolAsync(void** out, size_t size, void* pool, void* stream) {
    (void)pool, (void)stream;
    return cudaMalloc(out, size);
}
EXPORT Status cudaMallocHost(void** out, size_t size) { return cudaMalloc(out, size); }
EXPORT Status cudaHostAlloc(void** out, size_t size, unsigned flags) { return (void)flags, cudaMalloc(out, size); }
EXPORT Status cudaFree(void* memory) { return free(memory), 0; }
EXPORT Status cudaFreeAsync(void* memory, void* stream) { return (void)stream, free(memory), 0; }
EXPORT Status cudaFreeHost(void* memory) { return free(memory), 0; }

EXPORT Status cudaMemcpy(void* target, const void* source, size_t size, int kind) {
    (void)kind;
    memmove(target, source, size);
    return 0;
}
EXPORT Status cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream) {
    (void)stream;
    return cudaMemcpy(target, source, size, kind);
}
EXPORT Status cudaMemcpy2DAsync(char* target, size_t target_pitch, const char* source, size_t source_pitch,
                                size_t width, size_t height, int kind, void* stream) {
    (void)kind, (void)stream;
    for (size_t row = 0; row < height; row++)
        memcpy(target + row * target_pitch, source + row * source_pitch, width);
    return 0;
}
EXPORT Status cudaMemset(void* target, int value, size_t size) { return memset(target, value, size), 0; }
EXPORT Status cudaMemsetAsync(void* target, int value, size_t size, void* stream) {
    (void)stream;
    return cudaMemset(target, value, size);
}

EXPORT Status cudaPointerGetAttributes(int* out, const void* memory) {
    (void)memory;
    memset(out, 0, 48);
    out[0] = 2;  // of the device
    return 0;
}

// ---- streams, events, pools, handles

EXPORT Status cudaStreamCreate(void** out) { return *out = handle(), 0; }
EXPORT Status cudaStreamCreateWithFlags(void** out, unsigned flags) { return (void)flags, *out = handle(), 0; }
EXPORT Status cudaStreamCreateWithPriority(void** out, unsigned flags, int priority) {
    (void)flags, (void)priority;
    return *out = handle(), 0;
}
EXPORT Status cudaStreamIsCapturing(void* stream, int* out) { return (void)stream, *out = 0, 0; }
EXPORT Status cudaStreamGetCaptureInfo(void* stream, int* out) { return (void)stream, *out = 0, 0; }
EXPORT Status cudaEventCreate(void** out) { return *out = handle(), 0; }
EXPORT Status cudaEventCreateWithFlags(void** out, unsigned flags) { return (void)flags, *out = handle(), 0; }
EXPORT Status cudaEventElapsedTime(float* out, void* from, void* to) { return (void)from, (void)to, *out = 1, 0; }
EXPORT Status cudaEventElapsedTime_v2(float* out, void* from, void* to) { return cudaEventElapsedTime(out, from, to); }
EXPORT Status cudaDeviceGetDefaultMemPool(void** out, int device) { return (void)device, *out = handle(), 0; }
EXPORT Status cudaMemPoolCreate(void** out, const void* properties) { return (void)properties, *out = handle(), 0; }
EXPORT Status cublasCreate_v2(void** out) { return *out = handle(), 0; }
EXPORT Status cublasLtCreate(void** out) { return *out = handle(), 0; }
EXPORT Status cublasLtMatmulDescCreate(void** out) { return *out = handle(), 0; }
EXPORT Status cublasLtMatrixLayoutCreate(void** out) { return *out = handle(), 0; }
EXPORT Status cublasLtMatmulPreferenceCreate(void** out) { return *out = handle(), 0; }
EXPORT Status curandCreateGenerator(void** out) { return *out = handle(), 0; }
EXPORT Status cufftCreate(int* out) { return *out = 1, 0; }
EXPORT Status cublasGetVersion_v2(void* of, int* out) { return (void)of, *out = 130000, 0; }
EXPORT size_t cublasLtGetVersion(void) { return 130000; }
EXPORT Status cublasGetProperty(int which, int* out) { return (void)which, *out = 13, 0; }
EXPORT Status cublasLtMatmulAlgoGetHeuristic(void* of, void* what, void* a, void* b, void* c, void* d, void* preference,
                                             int wanted, void* out, int* found) {
    (void)of, (void)what, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted;
    memset(out, 0, 96);
    return *found = 1, 0;
}

// ---- kernels

EXPORT Status cudaFuncGetAttributes(char* out, const void* kernel) {
    (void)kernel;
    memset(out, 0, 144);
    const int threads = 1024;
    memcpy(out + 24, &threads, sizeof threads);
    return 0;
}
EXPORT Status cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* out) { return *out = 1, 0; }
EXPORT Status cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* out) { return *out = 1, 0; }
EXPORT Status cudaOccupancyMaxActiveClusters(int* out) { return *out = 1, 0; }
EXPORT Status cudaOccupancyMaxPotentialBlockSize(int* grid, int* block) { return *grid = 1, *block = 256, 0; }
EXPORT void** __cudaRegisterFatBinary(const void* binary) {
    static void* handles[16];
    return (void)binary, handles;
}
EXPORT char __cudaInitModule(void** binary) { return (void)binary, 1; }

// Whatever is looked up by name succeeds and does nothing.
static Status nothing(void) { return 0; }
EXPORT Status cudaGetDriverEntryPoint(const char* name, void** out, unsigned long long flags, int* found) {
    (void)name, (void)flags;
    *out = (void*)nothing;
    if (found) *found = 0;
    return 0;
}
EXPORT Status cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned version, unsigned long long flags,
                                               int* found) {
    (void)version;
    return cudaGetDriverEntryPoint(name, out, flags, found);
}

// ---- the driver

EXPORT Status cuDeviceGetCount(int* out) { return *out = 1, 0; }
