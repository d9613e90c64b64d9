// A range in float32 in tiles: rows of any cache are widened, and parted into bfloat16.
//
// Tiles have an order of sums of their own (`bfloat_parts.h`), so that last bits differ from those of
// `FloatRange`. One token's heads fill a tile as a prompt's do, and all take this way.
#pragma once

#include <cstring>

#include "kernels/attention_rows.h"
#include "kernels/x86/amx/bfloat_parts.h"

namespace trtcoder {
namespace {

struct PartsRange {
  using Lanes = Avx512AttentionLanes;
  using F = Lanes::F;
  template <int vectors>
  using Shares = Softmax<Lanes>::Shares<vectors>;
  static constexpr int kParts = BfloatParts::kCount;
  // Blocks of rows in the sums of a mix.
  static constexpr int kRowBlocks = kRangeRows / kTileValues;
  // Tiles of a mix that are multiplied at once.
  static constexpr int kMixTiles = 4;
  // Lines of the next rows that one token fetches at a product.
  static constexpr int kLinesAhead = 12;

  static void begin() { Tiles::configure(16); }
  static void end() { Tiles::release(); }

  static void pack_queries(const RowFormat& format, const uint32_t* words, int64_t count,
                           int64_t lanes, uint32_t* out) {
    const auto* queries = reinterpret_cast<const float*>(words);
    auto* to = reinterpret_cast<float*>(out);
    for (int64_t lane = 0; lane < lanes; lane += 16, queries += 16 * format.width)
      for (int64_t j = 0; j < format.width; j += kTileValues) {
        // [part][16 lanes][16 pairs]
        alignas(64) std::byte pairs[kParts * kTileBytes];
        const int64_t left = format.width - j;
        for (int i = 0; i < 16; ++i) {
          const float* query = queries + i * format.width + j;
          const bool is_there = lane + i < count;
          BfloatParts::store(pairs + i * 64, kTileBytes,
                             BfloatParts::round(BfloatParts::load(query, is_there ? left : 0)),
                             BfloatParts::round(BfloatParts::load(query + 16, is_there ? left - 16 : 0)));
        }
        for (int i = 0; i < kParts; ++i, to += kTileBytes / sizeof(float))
          Lanes::transpose16(reinterpret_cast<const float*>(pairs + i * kTileBytes), 16, to, 16);
      }
  }

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
    if (queries.count == 16) return;
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

  static bool are_in_place(const RowFormat& format) {
    return format.type == CacheType::float32 && format.width % kTileValues == 0;
  }

  // Makes rows float32, with zeros behind their last column, unless they are; and a row of zeros.
  static void widen_rows(const RowFormat& format, const RangeRows& rows,
                         const AttentionTile& tile) {
    const int64_t padded = format.tile_blocks() * kTileValues;
    std::memset(tile.values + kRangeRows * padded, 0, padded * sizeof(float));
    if (are_in_place(format)) return;
    for (int r = 0; r < rows.count; ++r) {
      float* to = tile.values + r * padded;
      convert<Lanes>(format, rows.entries[r], rows.scales[r], 0, format.width, to);
      std::memset(to + format.width, 0, (padded - format.width) * sizeof(float));
    }
  }

  // A row, or one of zeros behind the last.
  static const float* row_at(const RowFormat& format, const RangeRows& rows,
                             const AttentionTile& tile, int r) {
    const int64_t padded = format.tile_blocks() * kTileValues;
    if (r < rows.count && are_in_place(format)) return static_cast<const float*>(rows.entries[r]);
    return tile.values + (r < rows.count ? r : kRangeRows) * padded;
  }

  template <int vectors>
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    if constexpr (vectors == 1)
      if (queries.count == 16) return scores_of_one(format, queries, range, tile, ahead);
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
    for (int r = 0; left > 0; ) {
      const auto rows = [&]<int as>() {
        for (int v = 0; v < vectors; v += wide) step.template operator()<as, wide>(r, v);
        r += as * 16, left -= as;
      };
      if (left >= most) rows.template operator()<most>();
      else if (most > 2 && left >= 2) rows.template operator()<2>();
      else rows.template operator()<1>();
    }
  }

  // One token's sixteen lanes: rows are parted while parts of the columns before are multiplied, and
  // never leave the nearest cache.
  static void scores_of_one(const RowFormat& format, const QueryLanes& queries,
                            const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    const int rows = (range.count + 15) / 16;
    if (rows > 2) return scores_of_one<4>(format, queries, range, tile, ahead);
    rows == 2 ? scores_of_one<2>(format, queries, range, tile, ahead)
              : scores_of_one<1>(format, queries, range, tile, ahead);
  }

  template <int tiles>
  static void scores_of_one(const RowFormat& format, const QueryLanes& queries,
                            const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    const int64_t blocks = format.tile_blocks();
    const float* rows[tiles * 16];
    for (int r = 0; r < tiles * 16; ++r) rows[r] = row_at(format, range, tile, r);
    const auto part = [&](int64_t c, int first, int end) TRTCODER_INLINE_LAMBDA {
      std::byte* to = row_parts(tile, c % 2);
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
      const TileOperand a{row_parts(tile, c % 2), 64, kTileBytes, kRowPartBytes, 0};
      const TileOperand b{static_cast<const std::byte*>(queries.words), 64, 0, kTileBytes,
                          kParts * kTileBytes};
      multiply_block<tiles, 1>(a, b, c, [&](int n) TRTCODER_INLINE_LAMBDA {
        ahead.lines(kLinesAhead);
        part(c + 1, tiles * 16 * n / 6, tiles * 16 * (n + 1) / 6);
      });
    }
    store_tiles<tiles, 1>(tile.weights, 16);
  }

  // Blocks of 32 rows; one of zeros where all rows were taken out.
  static int blocks_of(const RangeRows& rows) {
    return rows.count > kTileValues ? kRowBlocks : 1;
  }

  // Parts of the weights [vectors][2 x 32 rows][part][16 lanes][a pair of each 16 rows].
  template <int vectors>
  static void part_weights(const RangeRows& rows, const AttentionTile& tile) {
    const F zero = Lanes::broadcast(0.0f);
    for (int v = 0; v < vectors; ++v)
      for (int first = 0; first < blocks_of(rows) * kTileValues; first += kTileValues) {
        alignas(64) std::byte pairs[kParts * kTileBytes];
        const auto weight = [&](int r) {
          return r < rows.count ? Lanes::load(tile.weights + (r * vectors + v) * 16) : zero;
        };
        for (int r = 0; r < 16; ++r)
          BfloatParts::store(pairs + r * 64, kTileBytes, BfloatParts::round(weight(first + r)),
                             BfloatParts::round(weight(first + r + 16)));
        std::byte* to =
            tile.weight_parts + (v * kRowBlocks + first / kTileValues) * kParts * kTileBytes;
        for (int i = 0; i < kParts; ++i)
          Lanes::transpose16(reinterpret_cast<const float*>(pairs + i * kTileBytes), 16,
                             reinterpret_cast<float*>(to + i * kTileBytes), 16);
      }
  }

  template <int vectors>
  static void mix(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                  const RangeRows& rows, const State& state, const AttentionTile& tile, const Shares<vectors>& shares,
                  RowsAhead& ahead) {
    constexpr int tall = vectors == 1 ? 1 : 2, wide = kMixTiles / tall;
    part_weights<vectors>(rows, tile);
    if constexpr (vectors == 1)
      if (queries.count == 16) return mix_of_one(format, rows, state, tile, shares, ahead);
    const int64_t stride = format.padded_latent(), columns = format.latent_tiles();
    const int64_t row_blocks = blocks_of(rows);
    alignas(64) float old[vectors][16], fresh[vectors][16];
    for (int v = 0; v < vectors; ++v)
      Lanes::store(old[v], shares.state[v]), Lanes::store(fresh[v], shares.range[v]);
    // A product is merged while the next is made.
    struct Made {
      float* mixed = nullptr;
      int v = 0, tiles = 0;
    } made;
    alignas(64) float sums[2][kMixTiles * 256];
    int turn = 0;
    const auto merge = [&]() TRTCODER_INLINE_LAMBDA {
      if (!made.mixed) return;
      const int across = made.tiles / tall;
      for (int t = 0; t < made.tiles; ++t) {
        const int v = made.v + t / across;
        float* p = made.mixed + (t / across * 16) * stride + t % across * 16;
        const float* sum = sums[1 - turn] + (t / across * 16) * across * 16 + t % across * 16;
#pragma GCC unroll 4
        for (int i = 0; i < 16; ++i, p += stride, sum += across * 16)
          Lanes::store(p, Lanes::fma(Lanes::load(sum), Lanes::broadcast(fresh[v][i]),
                                     Lanes::mul(Lanes::load(p), Lanes::broadcast(old[v][i]))));
      }
    };
    const auto step = [&]<int bs>(int v, int64_t n) TRTCODER_INLINE_LAMBDA {
      multiply_parts<tall, bs>(
          {tile.weight_parts + v * kRowBlocks * kParts * kTileBytes, 64,
           kRowBlocks * kParts * kTileBytes, kTileBytes, kParts * kTileBytes},
          {column_parts(format, tile, 0, n), 64, kColumnTileBytes, columns * kColumnTileBytes,
           kParts * columns * kColumnTileBytes},
          row_blocks);
      float* mixed = state.mixed + (lane + v * 16) * stride + n * 16;
      if (shares.is_empty) return store_tiles<tall, bs>(mixed, stride);
      merge();
      store_tiles<tall, bs>(sums[turn], bs * 16);
      made = {mixed, v, tall * bs};
      turn = 1 - turn;
    };
    for (int v = 0; v < vectors; v += tall)
      for (int64_t n = 0; n < columns;) {
        ahead.rows(2);
        if (n + wide <= columns) {
          step.template operator()<wide>(v, n);
          n += wide;
        } else {
          step.template operator()<1>(v, n++);
        }
      }
    merge();
  }

  // As `scores_of_one`.
  static void mix_of_one(const RowFormat& format, const RangeRows& range, const State& state,
                         const AttentionTile& tile, const Shares<1>& shares, RowsAhead& ahead) {
    const int row_blocks = blocks_of(range);
    const int64_t columns = format.latent_tiles(), stride = format.padded_latent();
    const float* rows[kRangeRows];
    for (int r = 0; r < row_blocks * kTileValues; ++r) rows[r] = row_at(format, range, tile, r);
    alignas(64) float old[16], fresh[16], sums[16 * kMixTiles * 16];
    Lanes::store(old, shares.state[0]), Lanes::store(fresh, shares.range[0]);
    // A turn is 32 rows of four tiles of columns; columns behind the last reach no result.
    const int64_t turns = (columns + kMixTiles - 1) / kMixTiles * row_blocks;
    constexpr int64_t part_bytes = kMixTiles * kColumnTileBytes;
    const auto pairs = [&](int64_t turn) { return tile.column_parts + turn % 2 * kParts * part_bytes; };
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
        for (int64_t t = 0; t < count; ++t) {
          float* p = state.mixed + i * stride + (n + t) * 16;
          const F mix = Lanes::load(sums + (i * kMixTiles + t) * 16);
          Lanes::store(p, shares.is_empty
                              ? mix
                              : Lanes::fma(mix, Lanes::broadcast(fresh[i]),
                                           Lanes::mul(Lanes::load(p), Lanes::broadcast(old[i]))));
        }
    }
  }

  // As `AttentionLoops` do, of a mix whose rows are lanes.
  static void fold(const RowFormat& format, int64_t lanes, const State& state, bool is_empty,
                   const State& part, int64_t start, int64_t stop) {
    const int64_t stride = format.padded_latent();
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      F state_share, part_share;
      Softmax<Lanes>::merge(state.largest + lane, state.sum + lane, is_empty,
                            Lanes::load(part.largest + lane), Lanes::load(part.sum + lane),
                            state_share, part_share);
      alignas(64) float old[16], fresh[16];
      Lanes::store(old, state_share), Lanes::store(fresh, part_share);
      for (int i = 0; i < 16; ++i)
        for (int64_t j = start; j < stop; j += 16) {
          float* p = state.mixed + (lane + i) * stride + j;
          const F mix = Lanes::load(part.mixed + (lane + i) * stride + j);
          Lanes::store(p, is_empty ? mix
                                   : Lanes::fma(mix, Lanes::broadcast(fresh[i]),
                                                Lanes::mul(Lanes::load(p),
                                                           Lanes::broadcast(old[i]))));
        }
    }
  }

  static void finish(const RowFormat& format, int64_t, const State& state, int64_t start,
                     int64_t stop, int64_t count, float* out, int64_t stride) {
    for (int64_t lane = 0; lane < count; ++lane) {
      const F share = Lanes::broadcast(1.0f / state.sum[lane]);
      const float* mixed = state.mixed + lane * format.padded_latent();
      for (int64_t j = start; j < stop; j += 16) {
        // The 0 makes +0 of -0, whose sign depends on rows that the lane does not see.
        const F value = Lanes::add(Lanes::mul(Lanes::load(mixed + j), share),
                                   Lanes::broadcast(0.0f));
        if (j + 16 <= stop) {
          Lanes::store(out + lane * stride + j, value);
          continue;
        }
        float last[16];
        Lanes::store(last, value);
        std::memcpy(out + lane * stride + j, last, (stop - j) * sizeof(float));
      }
    }
  }
};

}  // namespace
}  // namespace trtcoder
