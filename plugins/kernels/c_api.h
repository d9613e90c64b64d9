// The kernels for callers in other languages: the tests, and `trtcoder doctor`.
//
// A function that can fail returns NULL, or a message that lasts until the thread's next call.
#pragma once

#include <stdint.h>

#define TRTCODER_API extern "C" __attribute__((visibility("default")))

// See `Matrix` in `kernels/matrix.h`.
struct trtcoder_matrix {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t* zeros;
  int64_t rows;
  int64_t width;
  int32_t bits;
  int32_t block;
};

// Names of the instruction sets that this machine can run, worst first, with spaces between them.
TRTCODER_API const char* trtcoder_isas();
// The one that operators use.
TRTCODER_API const char* trtcoder_isa();
// Threads of all kernels of this process, the caller's included.
TRTCODER_API const char* trtcoder_set_threads(int32_t count);

TRTCODER_API const char* trtcoder_linear(const char* isa, const float* x, int64_t tokens,
                                         const trtcoder_matrix* matrix, float* y);
