// A range in float32 in tiles: rows of any cache are widened, and parted into bfloat16.
//
// Tiles have an order of sums of their own (`bfloat_parts.h`), so that last bits differ from those of
// `FloatRange`. One token's heads fill a tile as a prompt's do, and all take this way.
#pragma once

#include "kernels/x86/amx/attention_parts_one.h"

namespace trtcoder {
namespace {

struct PartsRange : PartsRows {
  template <int vectors>
  using Shares = Softmax<Lanes>::Shares<vectors>;

  static void begin() { Tiles::configure(16); }
  static void end() { Tiles::release(); }

  // Parts of rows for scores [blocks][part][64 rows][a pair of each 16 columns], and of the latent's
  // columns for the mix [2 x 32 rows][part][tile of 16 columns][a pair of each 16 rows].
  static std::byte* row_parts(const AttentionTile& tile, int64_t block) {
    return tile.row_parts + block * kParts * kRowPartBytes;
  }
  static std::byte* column_parts(const RowFormat& format, const AttentionTile& tile,
                                 int64_t row_block, int64_t n) {
    return tile.column_parts +
           (row_block * kParts * format.latent_tiles() + n) * kColumnTileBytes;
  }

  static void load(const RowFormat& format, const QueryLanes& queries, const RangeRows& rows,
                   const AttentionTile& tile) {
    widen_rows(format, rows, tile);
    if (PartsOfOne::takes(queries)) return;
    const int64_t blocks = format.tile_blocks(), columns = format.latent_tiles();
    for (int first = 0; first < blocks_of(rows) * kTileValues; first += kTileValues)
      for (int r = first; r < first + 16; ++r) {
        const float* low = row_at(format, rows, tile, r);
        const float* high = row_at(format, rows, tile, r + 16);
        std::byte* low_to = row_parts(tile, 0) + r * 64;
        std::byte* high_to = low_to + 16 * 64;
        std::byte* to = column_parts(format, tile, first / kTileValues, 0) + (r - first) * 64;
        for (int64_t c = 0; c < blocks; ++c) {
          const auto a = BfloatParts::cut(Lanes::load(low + c * 32));
          const auto b = BfloatParts::cut(Lanes::load(low + c * 32 + 16));
          const auto x = BfloatParts::cut(Lanes::load(high + c * 32));
          const auto y = BfloatParts::cut(Lanes::load(high + c * 32 + 16));
          BfloatParts::store(low_to + c * kParts * kRowPartBytes, kRowPartBytes, a, b);
          BfloatParts::store(high_to + c * kParts * kRowPartBytes, kRowPartBytes, x, y);
          std::byte* pair = to + 2 * c * kColumnTileBytes;
          if (2 * c < columns) BfloatParts::store(pair, columns * kColumnTileBytes, a, x);
          if (2 * c + 1 < columns)
            BfloatParts::store(pair + kColumnTileBytes, columns * kColumnTileBytes, b, y);
        }
      }
  }

  template <int vectors>
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    if constexpr (vectors == 1)
      if (PartsOfOne::takes(queries))
        return PartsOfOne::scores(format, queries, range, tile, ahead);
    constexpr int64_t word_bytes = 16 * 64;
    const int64_t next = format.packed_words() * 64;
    const auto* words = static_cast<const std::byte*>(queries.words) + lane / 16 * next;
    const auto step = [&]<int as, int bs>(int r, int v) TRTCODER_INLINE_LAMBDA {
      ahead.rows(as * bs * 2 / vectors);
      multiply_parts<as, bs>({row_parts(tile, 0) + r * 64, 64, kTileBytes, kRowPartBytes,
                              kParts * kRowPartBytes},
                             {words + v * next, 64, next, word_bytes, kParts * word_bytes},
                             format.tile_blocks());
      store_tiles<as, bs>(tile.weights + (r * vectors + v) * 16, vectors * 16);
    };
    constexpr int most = vectors == 1 ? 4 : 2, wide = vectors == 1 ? 1 : 2;
    int left = (range.count + 15) / 16;
    int r = 0;
    const auto rows = [&]<int as>() {
      for (; left >= as; r += as * 16, left -= as)
        for (int v = 0; v < vectors; v += wide) step.template operator()<as, wide>(r, v);
    };
    rows.template operator()<most>();
    rows.template operator()<2>();
    rows.template operator()<1>();
  }

  template <int vectors>
  static void mix(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                  const RangeRows& rows, const State& state, const AttentionTile& tile,
                  const Shares<vectors>& shares, RowsAhead& ahead) {
    // Tiles of lanes and of columns that are multiplied at once.
    constexpr int tall = vectors == 1 ? 1 : 2, wide = 4 / tall;
    part_weights<vectors>(rows, tile);
    if constexpr (vectors == 1)
      if (PartsOfOne::takes(queries))
        return PartsOfOne::mix(format, rows, state, tile, shares, ahead);
    const int64_t stride = format.padded_latent(), columns = format.latent_tiles();
    for (int v = 0; v < vectors; v += tall) {
      const LaneStates::Shares lanes[] = {
          {shares.is_empty, shares.state[v], shares.range[v]},
          {shares.is_empty, shares.state[v + tall - 1], shares.range[v + tall - 1]}};
      const TileOperand a{tile.weight_parts + v * kRowBlocks * kParts * kTileBytes, 64,
                          kRowBlocks * kParts * kTileBytes, kTileBytes, kParts * kTileBytes};
      float* mixed = state.mixed + (lane + v * 16) * stride;
      // A product is merged while the next is made.
      alignas(64) float sums[2][tall * wide * 256];
      int turn = 0;
      const auto merge = [&](int64_t n, int count) TRTCODER_INLINE_LAMBDA {
        const float* sum = sums[turn];
        for (int i = 0; i < tall * 16; ++i)
          for (int t = 0; t < count; ++t, sum += 16)
            lanes[i / 16].merge(i % 16, Lanes::load(sum), mixed + i * stride + (n + t) * 16);
      };
      int64_t before = -1;
      int count_before = 0;
      const auto step = [&]<int bs>(int64_t n) TRTCODER_INLINE_LAMBDA {
        ahead.rows(2);
        multiply_parts<tall, bs>(a,
                                 {column_parts(format, tile, 0, n), 64, kColumnTileBytes,
                                  columns * kColumnTileBytes, kParts * columns * kColumnTileBytes},
                                 blocks_of(rows));
        if (before >= 0) merge(before, count_before);
        turn = 1 - turn;
        store_tiles<tall, bs>(sums[turn], bs * 16);
        before = n, count_before = bs;
      };
      int64_t n = 0;
      for (; n + wide <= columns; n += wide) step.template operator()<wide>(n);
      for (; n < columns; ++n) step.template operator()<1>(n);
      merge(before, count_before);
    }
  }
};

}  // namespace
}  // namespace trtcoder
