// How a batch's attention is cut into pieces that threads take one by one.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_kernels.h"

namespace trtcoder {

struct AttentionPlan {
  // Some tokens of one sequence, whose heads are lanes side by side.
  struct Tile {
    int64_t first;     // in `order`
    int64_t tokens;
    int64_t lanes;     // tokens * heads, rounded up to kLaneStep
    int64_t sequence;
    int64_t ranges;    // up to the last position that a token sees
    int64_t piece;     // its first, or -1 where one thread takes all of it
    int64_t pieces;
  };

  // Ranges [first, last) of a tile: one range, or all of a span.
  struct Piece {
    int64_t tile;
    int64_t first;
    int64_t last;
  };

  // What a thread takes at once: a piece, or all of a tile where `piece` is -1.
  struct Turn {
    int64_t tile;
    int64_t piece;
    int64_t work;
  };

  std::vector<int64_t> order;  // tokens, those of a sequence behind each other
  std::vector<Tile> tiles;
  std::vector<Piece> pieces;   // of the tiles that several threads take
  std::vector<Turn> turns;     // longest first

  // `batch` has passed `check`.
  AttentionPlan(const AttentionShape& shape, const AttentionBatch& batch, int threads);

  // Lanes of the widest tile.
  int64_t widest_tile() const;
};

// Throws std::invalid_argument for a batch that does not fit the cache.
void check(const AttentionBatch& batch, int64_t cache_rows);

// Collects the rows of a range that exist, up to the position `last`.
RangeRows collect_rows(const AttentionShape& shape, const AttentionBatch& batch,
                       const LatentCache& cache, int64_t sequence, int64_t range, int64_t last);

}  // namespace trtcoder
