// New rows of the latent cache: normalised, rotated, and written as the cache stores them.
#pragma once

#include "kernels/attention.h"

namespace trtcoder {

// Normalises and rotates what the projections give of a token, into `entry` [width].
void make_entry(const AttentionShape& shape, const AttentionInputs& inputs, int64_t token,
                float* entry);

// Writes an entry to a row of the cache. A group that holds NaN or infinity has a scale of NaN.
void write_entry(const AttentionShape& shape, const LatentCache& cache, int64_t slot,
                 const float* entry);

// Rotates interleaved pairs of `width` values.
void rotate(const float* x, const float* cosines, const float* sines, int64_t width, float* out);

}  // namespace trtcoder
