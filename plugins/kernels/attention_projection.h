// Matrices of each head: W_UK brings a query into the latent space, W_UV the mix out of it.
#pragma once

#include "kernels/attention_kernels.h"
#include "kernels/products.h"

namespace trtcoder {

class HeadProjection {
 public:
  // Tokens that `run` takes at once.
  static constexpr int64_t kMaxTokens = kMaxGroup;

  // Throws std::invalid_argument unless the weights are a matrix of `inputs` columns and `outputs`
  // rows for each head.
  HeadProjection(const AttentionKernels& kernels, const Products& products,
                 const HeadWeights& weights, int64_t inputs, int64_t outputs);

  int64_t padded_outputs() const { return round_up(outputs_, 16); }
  // Bytes of working memory, 64-byte aligned.
  int64_t scratch_bytes() const;

  // y[t * padded_outputs + n] = sum over k of x[t * x_stride + k] * the head's weight of n and k.
  void run(int64_t head, const float* x, int64_t x_stride, int64_t tokens, float* y,
           std::byte* scratch) const;

 private:
  void multiply_codes(int64_t head, const float* x, int64_t x_stride, int64_t tokens, float* y,
                      std::byte* scratch) const;

  const AttentionKernels& kernels_;
  const Products& products_;
  const HeadWeights weights_;
  const int64_t inputs_;
  const int64_t outputs_;
};

}  // namespace trtcoder
