#include "kernels/attention_projection.h"

#include <stdexcept>
#include <string>

namespace trtcoder {

HeadProjection::HeadProjection(const AttentionKernels& kernels, const HeadWeights& weights,
                               int64_t inputs, int64_t outputs)
    : kernels_(kernels), weights_(weights), inputs_(inputs), outputs_(outputs) {
  if (!weights.values) throw std::invalid_argument("weights of the heads are missing");
  if (weights.type != HeadWeights::Type::int8) return;
  if (!weights.scales) throw std::invalid_argument("scales of the heads' weights are missing");
  if (weights.block < 1)
    throw std::invalid_argument("weights of the heads: a block of " +
                                std::to_string(weights.block) + " rows");
}

const void* HeadProjection::values(int64_t head) const {
  using Type = HeadWeights::Type;
  const int64_t bytes = weights_.type == Type::int8 ? 1 : weights_.type == Type::float32 ? 4 : 2;
  return static_cast<const std::byte*>(weights_.values) + head * inputs_ * outputs_ * bytes;
}

void HeadProjection::run(int64_t head, int64_t next, bool is_fetched, const float* x,
                         int64_t x_stride, int64_t tokens, float* y) const {
  HeadMatrix m{weights_.type, values(head), nullptr, weights_.block, inputs_, outputs_,
               next < 0 ? nullptr : values(next), is_fetched};
  if (m.type == HeadWeights::Type::int8)
    m.scales = weights_.scales + head * ((inputs_ + m.block - 1) / m.block) * outputs_;
  kernels_.project(m, x, x_stride, tokens, y, padded_outputs());
}

}  // namespace trtcoder
