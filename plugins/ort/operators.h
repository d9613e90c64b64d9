// The operators of this library, and how they read weights.
#pragma once

#include "kernels/matrix.h"
#include "ort/operator.h"

namespace ort {

const Op* linear_op();

// Returns a matrix whose form is known with its data: the inputs codes, scales and zeros (may be
// left out) from `first` on.
//
// Throws std::invalid_argument where one is not of the size that the form needs.
trtcoder::Matrix with_data(trtcoder::Matrix form, const Call& call, size_t first);

}  // namespace ort
