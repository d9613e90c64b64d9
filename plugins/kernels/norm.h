// Normalisation by the root of the mean square (RMSNorm, arXiv 1910.07467).
#pragma once

#include <cstdint>

#include "kernels/threads.h"

namespace trtcoder {

// 1 / sqrt(mean of the squares + epsilon) of `count` values. Sixteen sums side by side, then halves
// onto halves: the same on every machine.
float inverse_root_mean_square(const float* x, int64_t count, float epsilon);

// Of each row of x [tokens, width], or of `total` = x + residual where a residual is given:
// y = row * inverse_root_mean_square(row) * weight.
//
// A row's bits do not depend on the others, the threads and the instruction set.
void rms_norm(Team& team, const float* x, const float* residual, int64_t tokens, int64_t width,
              const float* weight, float epsilon, float* total, float* y);

}  // namespace trtcoder
