#include "kernels/attention_projection.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/group_layout.h"

namespace trtcoder {
namespace {

bool is_quantized(const HeadWeights& weights) {
  return weights.type == HeadWeights::Type::quantized;
}

}  // namespace

HeadProjection::HeadProjection(const AttentionKernels& kernels, const Products& products,
                               const HeadWeights& weights, int64_t inputs, int64_t outputs)
    : kernels_(kernels), products_(products), weights_(weights), inputs_(inputs),
      outputs_(outputs) {
  if (!is_quantized(weights)) {
    if (!weights.values) throw std::invalid_argument("weights of the heads are missing");
    return;
  }
  const Matrix& m = weights.quantized;
  check(m);
  if (m.rows != outputs || m.width != inputs)
    throw std::invalid_argument("weights of a head are " + std::to_string(m.rows) + " x " +
                                std::to_string(m.width) + ", expected " +
                                std::to_string(outputs) + " x " + std::to_string(inputs));
}

int64_t HeadProjection::scratch_bytes() const {
  if (!is_quantized(weights_)) return 0;
  const Matrix& m = weights_.quantized;
  const int64_t codes = GroupLayout::row_bytes(m.blocks(), m.block);
  const int64_t scales = round_up(m.blocks() * 4, 64);
  return (kMaxTokens + 1) * (codes + 2 * scales) + GroupLayout::kSpareBytes +
         2 * round_up(GroupLayout::kSpareValues * 4, 64);
}

void HeadProjection::run(int64_t head, const float* x, int64_t x_stride, int64_t tokens, float* y,
                         std::byte* scratch) const {
  if (is_quantized(weights_)) {
    for (int64_t t = 0; t < tokens;) {
      const int64_t some = products_.group_size(tokens - t);
      multiply_codes(head, x + t * x_stride, x_stride, some, y + t * padded_outputs(), scratch);
      t += some;
    }
    return;
  }
  const int64_t bytes = weights_.type == HeadWeights::Type::float32 ? 4 : 2;
  const auto* values = static_cast<const std::byte*>(weights_.values);
  kernels_.project(weights_.type, values + head * inputs_ * outputs_ * bytes, inputs_, outputs_, x,
                   x_stride, tokens, y, padded_outputs());
}

void HeadProjection::multiply_codes(int64_t head, const float* x, int64_t x_stride, int64_t tokens,
                                    float* y, std::byte* scratch) const {
  const Matrix matrix = matrix_behind(weights_.quantized, head);
  const ActivationFormat format(matrix);
  const GroupLayout layout(products_, matrix.block, tokens);
  const int64_t blocks = matrix.blocks(), width = GroupLayout::row_bytes(blocks, matrix.block);
  const auto take = [&]<class T>(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(scratch);
    scratch += round_up(count * int64_t(sizeof(T)), 64);
  };
  int8_t *codes, *own_codes;
  float *scales, *own_scales;
  int32_t *offsets, *own_offsets;
  take(codes, tokens * width + GroupLayout::kSpareBytes);
  take(scales, tokens * blocks + GroupLayout::kSpareValues);
  take(offsets, tokens * blocks + GroupLayout::kSpareValues);
  take(own_codes, width), take(own_scales, blocks), take(own_offsets, blocks);
  if (tokens == 1) {
    products_.quantize(x, inputs_, format, codes, scales, offsets);
  } else {
    for (int64_t t = 0; t < tokens; ++t) {
      products_.quantize(x + t * x_stride, inputs_, format, own_codes, own_scales, own_offsets);
      for (int64_t b = 0; b < blocks; ++b) {
        layout.put(codes, t, b, own_codes + b * matrix.block);
        scales[b * tokens + t] = own_scales[b];
        offsets[b * tokens + t] = own_offsets[b];
      }
    }
  }
  const Activations activations{static_cast<int>(tokens), layout.tiled, codes, scales, offsets};
  by_panels(products_, 0, matrix.panels(), [&](int64_t p, int count) {
    products_.panels(matrix, p, count, activations, y + p * 16, padded_outputs());
  });
}

}  // namespace trtcoder
