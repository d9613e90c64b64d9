// Where the codes of a group of tokens lie: see `Activations`.
#pragma once

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
    if (!tiled) {
      int8_t* to = group + tokens * index * block + t * 4;
      for (int64_t four = 0; four < block / 4; ++four)
        std::memcpy(to + four * tokens * 4, codes + four * 4, 4);
      return;
    }
    int8_t* const to = block < kPiece
                           ? group + (index / 2 * tokens + t) * kPiece + index % 2 * block
                           : group + (index * tokens + t) * block;
    // Vectors, not calls: so many bytes are known here.
    for (int64_t k = 0; k < block; k += kMinBlock) std::memcpy(to + k, codes + k, kMinBlock);
  }

 private:
  // Columns of a tile.
  static constexpr int64_t kPiece = 64;
};

}  // namespace trtcoder
