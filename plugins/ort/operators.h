// The operators of this library, and how they read weights.
#pragma once

#include "kernels/matrix.h"
#include "ort/operator.h"

namespace ort {

const Op* linear_op();
const Op* mlp_op();
const Op* experts_op();
const Op* latent_attention_op();
const Op* rms_norm_op();

// Returns the first of `count` matrices of a known form with its data: the inputs codes, scales and
// zeros (may be left out) from `first` on, each [count * panels, bytes or values of a panel]. Of
// float32 there are codes alone.
//
// Throws std::invalid_argument where one is not of the type and size that the form needs.
trtcoder::Matrix with_data(trtcoder::Matrix form, int64_t count, const Call& call, size_t first);

}  // namespace ort
