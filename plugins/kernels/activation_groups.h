// Activations of many tokens as matrices take them: by token, and in the groups of products.
#pragma once

#include <cstring>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/group_layout.h"
#include "kernels/products.h"

namespace trtcoder {

// One block of a token's codes.
struct RoundedBlock {
  const int8_t* codes;
  float scale;
  int32_t offset;
};

// Tokens' activations [tokens, width], each on its own.
class RoundedRows {
 public:
  RoundedRows(const Products& kernels, const ActivationFormat& format, int64_t tokens,
              int64_t width)
      : format(format), width(width), blocks((width + format.block - 1) / format.block),
        kernels_(kernels), codes_(tokens * blocks * format.block), scales_(tokens * blocks),
        offsets_(tokens * blocks) {}

  void round(int64_t token, const float* x) {
    kernels_.quantize(x, width, format, codes_.data() + token * blocks * format.block,
                      scales_.data() + token * blocks, offsets_.data() + token * blocks);
  }

  RoundedBlock at(int64_t token, int64_t block) const {
    const int64_t i = token * blocks + block;
    return {codes_.data() + i * format.block, scales_.data()[i], offsets_.data()[i]};
  }

  const ActivationFormat format;
  const int64_t width;
  const int64_t blocks;

 private:
  const Products& kernels_;
  Buffer<int8_t> codes_;
  Buffer<float> scales_;
  Buffer<int32_t> offsets_;
};

// Tokens' activations in groups; `Activations` describes the layout of one. Rounded ones are put
// there block by block; for a float32 matrix they are rows, of whole blocks.
class ActivationGroups {
 public:
  ActivationGroups(const Products& kernels, const ActivationFormat& format, int64_t tokens,
                   int64_t width)
      : is_float(format.is_float()), kernels_(kernels), block_(format.block),
        blocks_(format.blocks(width)), row_bytes_(GroupLayout::row_bytes(blocks_, block_)),
        codes_(is_float ? 0 : tokens * row_bytes_ + GroupLayout::kSpareBytes),
        scales_(is_float ? 0 : tokens * blocks_ + GroupLayout::kSpareValues),
        offsets_(is_float ? 0 : tokens * blocks_ + GroupLayout::kSpareValues),
        rows_(is_float ? tokens * blocks_ * block_ : 0) {
    const auto size = is_float ? kernels.float_group_size : kernels.group_size;
    for (int64_t t = 0; t < tokens; t += size(tokens - t)) starts_.push_back(t);
    starts_.push_back(tokens);
  }

  int64_t count() const { return int64_t(starts_.size()) - 1; }
  // The tokens of a group: from `start` up to `start` of the next one.
  int64_t start(int64_t group) const { return starts_[group]; }
  int size(int64_t group) const { return int(starts_[group + 1] - starts_[group]); }

  Activations operator[](int64_t group) const {
    const int64_t start = starts_[group];
    if (is_float)
      return {.tokens = size(group),
              .rows = rows_.data() + start * blocks_ * block_,
              .stride = blocks_ * block_};
    return {size(group), layout(group).tiled, codes_.data() + start * row_bytes_,
            scales_.data() + start * blocks_, offsets_.data() + start * blocks_, nullptr, 0};
  }

  // Writes one block of the group's token `t`.
  void put(int64_t group, int t, int64_t block, const RoundedBlock& from) {
    const int64_t tokens = size(group), start = starts_[group];
    layout(group).put(codes_.data() + start * row_bytes_, t, block, from.codes);
    const int64_t i = start * blocks_ + tokens * block + t;
    scales_.data()[i] = from.scale;
    offsets_.data()[i] = from.offset;
  }

  // The row of a group's token t, from a block on.
  float* row(int64_t group, int t, int64_t block = 0) {
    return rows_.data() + ((starts_[group] + t) * blocks_ + block) * block_;
  }

  // Writes a whole group; `token(i)` is the row of the group's token i in `rows`.
  template <class Token>
  void gather(int64_t group, const RoundedRows& rows, Token token) {
    for (int t = 0; t < size(group); ++t)
      for (int64_t b = 0; b < blocks_; ++b)
        put(group, t, b, rows.at(token(starts_[group] + t), b));
  }

  const bool is_float;

 private:
  GroupLayout layout(int64_t group) const { return {kernels_, block_, size(group)}; }

  const Products& kernels_;
  const int64_t block_;
  const int64_t blocks_;
  const int64_t row_bytes_;
  Buffer<int8_t> codes_;
  Buffer<float> scales_;
  Buffer<int32_t> offsets_;
  Buffer<float> rows_;
  std::vector<int64_t> starts_;
};

}  // namespace trtcoder
