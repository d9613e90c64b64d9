// Absorbed multi-head latent attention over a paged cache, from the projections of the tokens to
// the mixed values of the heads (DeepSeek-V2, arXiv 2405.04434, section 2.1).
//
// A row's bits depend on the token, its position and what the cache holds for its sequence up to
// there: not on the rest of the batch, on how a prompt was cut, on where blocks lie or on the number
// of threads. What that takes is said in `attention_kernels.h`. Instruction sets give the same bits
// too, but for `amx`, whose tiles have an order of sums of their own.
#pragma once

#include <cstdint>

#include "kernels/isa.h"
#include "kernels/threads.h"

namespace trtcoder {

// Cache rows of a block.
inline constexpr int64_t kCacheBlock = 16;

struct AttentionShape {
  int64_t heads;
  int64_t nope;    // of a head's query without position
  int64_t rope;    // of the rotated part, for queries and the key that heads share
  int64_t latent;  // of the cached latent
  int64_t value;   // of a head's output

  // Of a cache row: the latent, then the rotated key.
  int64_t width() const { return latent + rope; }
};

enum class CacheType { float32, float16, bfloat16, int8, float8 };

// The rows of one layer. Quantized rows have a scale for each `group` values; float8 is E4M3.
struct LatentCache {
  CacheType type;
  void* entries;  // [rows, width]
  float* scales;  // [rows, width / group], int8 and float8 only
  int64_t rows;
  int64_t group;
};

// A matrix for each head: `latent` outputs from `nope` (W_UK), or `value` from `latent` (W_UV).
// int8 has a scale for each `block` rows of a column: what one of them stands for is code * scale.
struct HeadWeights {
  enum class Type { int8, float32, float16, bfloat16 } type;
  const void* values;      // [heads, inputs, outputs]
  const uint16_t* scales;  // float16 [heads, inputs / block, outputs], int8 only
  int64_t block;           // the last one of a head may be shorter
};

// The tokens of all sequences, packed.
struct AttentionBatch {
  int64_t tokens;
  int64_t sequences;
  int64_t blocks;              // columns of the block table
  const int64_t* positions;    // [tokens]
  const int64_t* slots;        // [tokens], the cache row that a token is written to
  const int64_t* sequence_of;  // [tokens], a row of the block table
  const int64_t* block_table;  // [sequences, blocks], -1 where there is no block
};

// Rows of a projection's output; `stride` values from one token to the next.
struct TokenRows {
  const float* values;
  int64_t stride;
};

// How queries are multiplied with the cache.
enum class Arithmetic {
  // Rows become float32.
  float32,
  // Of an int8 cache: queries and weights of the mix are whole numbers of 16 bits, with a scale for
  // each group of queries and for each row and group of the mix: their errors are at most 2^-16 of
  // the largest.
  int16,
  // Rows become float32, and these three bfloat16: what tiles do in place of float32.
  bfloat_parts
};

struct AttentionInputs {
  TokenRows query_nope;  // [tokens, heads * nope]
  TokenRows query_rope;  // [tokens, heads * rope], not yet rotated
  TokenRows latent;      // [tokens, latent], not yet normalised
  TokenRows key_rope;    // [tokens, rope], not yet rotated
  const float* norm;     // [latent]
  float epsilon;
  const float* cosines;  // [tokens, rope / 2]
  const float* sines;    // [tokens, rope / 2]
  HeadWeights absorb_key;
  HeadWeights absorb_value;
  float softmax_scale;
  Arithmetic arithmetic;  // int16, if it is wanted for an int8 cache
};

// Writes the tokens' entries to their slots, then attends from each token to the rows of its
// sequence up to its position: out is [tokens, heads * value].
//
// A row that holds NaN or infinity makes the outputs NaN that see it, and no other.
//
// Throws std::invalid_argument, before anything is written, where a slot, a sequence, a block or a
// size is out of range, two tokens have one slot, or a token sees no row.
void latent_attention(Isa isa, Team& team, const AttentionShape& shape,
                      const AttentionInputs& inputs, const AttentionBatch& batch,
                      const LatentCache& cache, float* out);

}  // namespace trtcoder
