// Activations of many tokens, quantized and put into the groups that products take.
#pragma once

#include <cstring>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/products.h"

namespace trtcoder {

class ActivationGroups {
 public:
  ActivationGroups(const Products& kernels, const ActivationFormat& format, int64_t width,
                   int64_t tokens)
      : kernels_(kernels), format_(format), width_(width),
        blocks_((width + format.block - 1) / format.block), codes_(tokens * padded()),
        scales_(tokens * blocks_), offsets_(tokens * blocks_) {
    for (int64_t t = 0; t < tokens; t += kernels.group_size(tokens - t)) starts_.push_back(t);
    starts_.push_back(tokens);
  }

  int64_t count() const { return int64_t(starts_.size()) - 1; }
  int64_t first_token(int64_t group) const { return starts_[group]; }

  Activations operator[](int64_t group) {
    const int64_t start = starts_[group];
    return {int(starts_[group + 1] - start), codes_.data() + start * padded(),
            scales_.data() + start * blocks_, offsets_.data() + start * blocks_};
  }

  // Quantizes the tokens of a group; `row(t)` is where token t's values are.
  template <class Row>
  void fill(int64_t group, Row row) {
    const int64_t start = starts_[group];
    const int tokens = int(starts_[group + 1] - start);
    int8_t* codes = codes_.data() + start * padded();
    float* scales = scales_.data() + start * blocks_;
    int32_t* offsets = offsets_.data() + start * blocks_;
    if (tokens == 1) {
      kernels_.quantize(row(start), width_, format_, codes, scales, offsets);
      return;
    }
    Buffer<int8_t> own_codes(padded());
    Buffer<float> own_scales(blocks_);
    Buffer<int32_t> own_offsets(blocks_);
    for (int t = 0; t < tokens; ++t) {
      kernels_.quantize(row(start + t), width_, format_, own_codes.data(), own_scales.data(),
                        own_offsets.data());
      for (int64_t four = 0; four < padded() / 4; ++four)
        std::memcpy(codes + (four * tokens + t) * 4, own_codes.data() + four * 4, 4);
      for (int64_t b = 0; b < blocks_; ++b) {
        scales[b * tokens + t] = own_scales[b];
        offsets[b * tokens + t] = own_offsets[b];
      }
    }
  }

 private:
  int64_t padded() const { return blocks_ * format_.block; }

  const Products& kernels_;
  const ActivationFormat format_;
  const int64_t width_;
  const int64_t blocks_;
  Buffer<int8_t> codes_;
  Buffer<float> scales_;
  Buffer<int32_t> offsets_;
  std::vector<int64_t> starts_;
};

}  // namespace trtcoder
