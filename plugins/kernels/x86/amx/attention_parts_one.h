// A range for one token's sixteen lanes: rows are parted while what was parted before is multiplied,
// and never leave the nearest cache.
#pragma once

#include "kernels/x86/amx/attention_parts_rows.h"
#include "kernels/x86/amx/attention_parts_state.h"

namespace trtcoder {
namespace {

struct PartsOfOne : PartsRows {
  // Tiles of a mix that are multiplied at once.
  static constexpr int kMixTiles = 4;
  // Lines of the next rows that are fetched at a product.
  static constexpr int kLinesAhead = 12;

  static bool takes(const QueryLanes& queries) { return queries.count == 16; }

  static void scores(const RowFormat& format, const QueryLanes& queries,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    const int rows = (range.count + 15) / 16;
    if (rows > 2) return scores<4>(format, queries, range, tile, ahead);
    rows == 2 ? scores<2>(format, queries, range, tile, ahead)
              : scores<1>(format, queries, range, tile, ahead);
  }

  template <int tiles>
  static void scores(const RowFormat& format, const QueryLanes& queries,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    const int64_t blocks = format.tile_blocks();
    const float* rows[tiles * 16];
    for (int r = 0; r < tiles * 16; ++r) rows[r] = row_at(format, range, tile, r);
    const auto parts = [&](int64_t c) TRTCODER_INLINE_LAMBDA {
      return tile.row_parts + c % 2 * kParts * kRowPartBytes;
    };
    const auto part = [&](int64_t c, int first, int end) TRTCODER_INLINE_LAMBDA {
      std::byte* to = parts(c);
      const int64_t column = c < blocks ? c * kTileValues : 0;
      for (int r = first; r < end; ++r) {
        const float* from = rows[r] + column;
        BfloatParts::store(to + r * 64, kRowPartBytes, BfloatParts::cut(Lanes::load(from)),
                           BfloatParts::cut(Lanes::load(from + 16)));
      }
    };
    part(0, 0, tiles * 16);
    zero_tiles<tiles>();
    for (int64_t c = 0; c < blocks; ++c) {
      const TileOperand a{parts(c), 64, kTileBytes, kRowPartBytes, 0};
      const TileOperand b{static_cast<const std::byte*>(queries.words), 64, 0, kTileBytes,
                          kParts * kTileBytes};
      multiply_block<tiles, 1>(a, b, c, [&](int n) TRTCODER_INLINE_LAMBDA {
        ahead.lines(kLinesAhead);
        part(c + 1, tiles * 16 * n / 6, tiles * 16 * (n + 1) / 6);
      });
    }
    store_tiles<tiles, 1>(tile.weights, 16);
  }

  template <class Shares>
  static void mix(const RowFormat& format, const RangeRows& range, const State& state,
                  const AttentionTile& tile, const Shares& shares, RowsAhead& ahead) {
    const int row_blocks = blocks_of(range);
    const int64_t columns = format.latent_tiles(), stride = format.padded_latent();
    const float* rows[kRangeRows];
    for (int r = 0; r < row_blocks * kTileValues; ++r) rows[r] = row_at(format, range, tile, r);
    const LaneStates::Shares lanes(shares.is_empty, shares.state[0], shares.range[0]);
    alignas(64) float sums[16 * kMixTiles * 16];
    // A turn is 32 rows of four tiles of columns. Columns behind the last reach no result.
    const int64_t turns = (columns + kMixTiles - 1) / kMixTiles * row_blocks;
    constexpr int64_t part_bytes = kMixTiles * kColumnTileBytes;
    const auto pairs = [&](int64_t turn) TRTCODER_INLINE_LAMBDA {
      return tile.column_parts + turn % 2 * kParts * part_bytes;
    };
    const auto part = [&](int64_t turn, int first, int end) TRTCODER_INLINE_LAMBDA {
      const float* const* from = rows + turn % row_blocks * kTileValues;
      const int64_t j = turn / row_blocks * kMixTiles * 16;
      for (int r = first; r < end; ++r)
#pragma GCC unroll 4
        for (int i = 0; i < kMixTiles; ++i) {
          // The first columns stand for those behind the last.
          const int64_t at = j + i * 16 < columns * 16 ? j + i * 16 : 0;
          BfloatParts::store(pairs(turn) + i * kColumnTileBytes + r * 64, part_bytes,
                             BfloatParts::cut(Lanes::load(from[r] + at)),
                             BfloatParts::cut(Lanes::load(from[r + 16] + at)));
        }
    };
    part(0, 0, 16);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t block = turn % row_blocks, n = turn / row_blocks * kMixTiles;
      if (block == 0) zero_tiles<kMixTiles>();
      const TileOperand a{tile.weight_parts, 64, 0, kTileBytes, kParts * kTileBytes};
      const TileOperand b{pairs(turn), 64, kColumnTileBytes, part_bytes, 0};
      multiply_block<1, kMixTiles>(a, b, block, [&](int i) TRTCODER_INLINE_LAMBDA {
        ahead.lines(kLinesAhead);
        part(turn + 1, 16 * i / 6, 16 * (i + 1) / 6);
      });
      if (block + 1 < row_blocks) continue;
      store_tiles<1, kMixTiles>(sums, kMixTiles * 16);
      const int64_t count = columns - n < kMixTiles ? columns - n : kMixTiles;
      for (int i = 0; i < 16; ++i)
        for (int64_t t = 0; t < count; ++t)
          lanes.merge(i, Lanes::load(sums + (i * kMixTiles + t) * 16),
                      state.mixed + i * stride + (n + t) * 16);
    }
  }
};

}  // namespace
}  // namespace trtcoder
