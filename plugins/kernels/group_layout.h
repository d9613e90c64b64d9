// Where the codes of a group of tokens lie: see `Activations`.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/matrix.h"
#include "kernels/products.h"

namespace trtcoder {

struct GroupLayout {
  int64_t block;
  int64_t tokens;
  bool tiled;

  GroupLayout(const Products& kernels, int64_t block, int64_t tokens)
      : block(block), tokens(tokens), tiled(tokens >= kernels.tiled_from) {}

  // Bytes of a token's codes.
  static int64_t row_bytes(int64_t blocks, int64_t block) {
    return (blocks * block + kPiece - 1) / kPiece * kPiece;
  }

  // Bytes and values behind the last group that products may read.
  static constexpr int64_t kSpareBytes = (kTileTokens - 1) * kMaxBlock;
  static constexpr int64_t kSpareValues = kTileTokens - 1;

  // Writes one block of the group's token `t`.
  void put(int8_t* group, int64_t t, int64_t index, const int8_t* codes) const {
    if (tiled) {
      const int64_t piece = std::max(block, kPiece), start = index * block;
      std::memcpy(group + start / piece * piece * tokens + t * piece + start % piece, codes, block);
      return;
    }
    int8_t* to = group + tokens * index * block + t * 4;
    for (int64_t four = 0; four < block / 4; ++four)
      std::memcpy(to + four * tokens * 4, codes + four * 4, 4);
  }

 private:
  // Columns of a tile.
  static constexpr int64_t kPiece = 64;
};

}  // namespace trtcoder
