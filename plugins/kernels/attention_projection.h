// Matrices of each head: W_UK brings a query into the latent space, W_UV the mix out of it.
#pragma once

#include "kernels/attention_kernels.h"

namespace trtcoder {

class HeadProjection {
 public:
  // Tokens that `run` takes at once.
  static constexpr int64_t kMaxTokens = 64;

  // Throws std::invalid_argument unless there are weights, and scales where they need them.
  HeadProjection(const AttentionKernels& kernels, const HeadWeights& weights, int64_t inputs,
                 int64_t outputs);

  int64_t padded_outputs() const { return round_up(outputs_, 16); }

  // y[t * padded_outputs + n] = sum over k of x[t * x_stride + k] * the head's weight of n and k.
  // `next` is the head that the caller will multiply with afterwards, -1 for none; `is_fetched`
  // whether this one was the `next` of another.
  void run(int64_t head, int64_t next, bool is_fetched, const float* x, int64_t x_stride,
           int64_t tokens, float* y) const;

 private:
  const void* values(int64_t head) const;

  const AttentionKernels& kernels_;
  const HeadWeights weights_;
  const int64_t inputs_;
  const int64_t outputs_;
};

}  // namespace trtcoder
