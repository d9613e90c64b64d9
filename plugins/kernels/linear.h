// A linear layer.
#pragma once

#include "kernels/isa.h"
#include "kernels/matrix.h"
#include "kernels/threads.h"

namespace trtcoder {

// y[t, n] = sum over k of x[t, k] * matrix[n, k]; x is [tokens, width], y [tokens, rows], both
// float32. A row of y has the same bits whatever the other rows, the threads and the instruction
// set are.
//
// Throws std::invalid_argument for a matrix that `check` refuses.
void linear(Isa isa, Team& team, const float* x, int64_t tokens, const Matrix& matrix, float* y);

}  // namespace trtcoder
