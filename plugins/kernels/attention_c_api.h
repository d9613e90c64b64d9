// Attention for the tests: see `latent_attention` in `kernels/attention.h`.
#pragma once

#include "kernels/c_api.h"

// Types are numbers in the order of their enumerations: CacheType, HeadWeights::Type, Arithmetic.
struct trtcoder_attention {
  int64_t heads, nope, rope, latent, value;

  const float* query_nope;
  const float* query_rope;
  const float* latents;
  const float* key_rope;
  int64_t query_nope_stride, query_rope_stride, latent_stride, key_rope_stride;
  const float* norm;
  const float* cosines;
  const float* sines;
  float epsilon, softmax_scale;
  int32_t arithmetic;

  int32_t weight_type;
  const void* absorb_key;
  const void* absorb_value;
  const uint16_t* absorb_key_scales;
  const uint16_t* absorb_value_scales;
  int64_t weight_block;

  int64_t tokens, sequences, blocks;
  const int64_t* positions;
  const int64_t* slots;
  const int64_t* sequence_of;
  const int64_t* block_table;

  int32_t cache_type;
  void* entries;
  float* scales;
  int64_t rows, group;

  float* out;
};

TRTCODER_API const char* trtcoder_latent_attention(const char* isa,
                                                   const trtcoder_attention* call);
