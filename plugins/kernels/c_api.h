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

// The revision of the operators: of their names, inputs and attributes, and of the layout of weights.
TRTCODER_API int32_t trtcoder_operators();
// Names of the instruction sets that this machine can run, worst first, with spaces between them.
TRTCODER_API const char* trtcoder_isas();
// The one that operators use.
TRTCODER_API const char* trtcoder_isa();
// Threads of all kernels of this process, the caller's included.
TRTCODER_API const char* trtcoder_set_threads(int32_t count);

TRTCODER_API const char* trtcoder_linear(const char* isa, const float* x, int64_t tokens,
                                         const trtcoder_matrix* matrix, float* y);

// See `Mlp` and `Routing` in `kernels/experts.h`. Of experts the first is given; the others lie
// behind it.
struct trtcoder_mlp {
  trtcoder_matrix gate_up;
  trtcoder_matrix down;
};

struct trtcoder_routing {
  const void* rows;
  int64_t experts;
  int64_t top_k;
  int64_t groups;
  int64_t top_groups;
  int32_t is_bfloat;
  int32_t normalize;
  float scale;
};

// `shared`, or `experts` and `routing`, may be NULL; so may `logits`.
TRTCODER_API const char* trtcoder_feed_forward(const char* isa, const float* x, int64_t tokens,
                                               const trtcoder_mlp* shared,
                                               const trtcoder_mlp* experts,
                                               const trtcoder_routing* routing, float* y,
                                               float* logits);
