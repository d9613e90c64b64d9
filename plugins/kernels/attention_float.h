// A range in float32: rows of any cache are widened first.
#pragma once

#include <cstring>

#include "kernels/attention_rows.h"
#include "kernels/attention_softmax.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct FloatRange {
  using F = typename Lanes::F;
  template <int vectors>
  using Shares = typename Softmax<Lanes>::template Shares<vectors>;

  // Around all that is done with a range.
  static void begin() {}
  static void end() {}

  // The width of a row of DeepSeek-V2: a constant, so that rows may be taken from where they lie.
  static constexpr int64_t kRowWidth = 576;

  // Whether a range of one token is read in the cache itself: its rows fill blocks. For more lanes a
  // copy near by is worth its time.
  static bool in_place(const RowFormat& format, const QueryLanes& queries, const RangeRows& rows) {
    if constexpr (kCacheBlock % Lanes::template kScoreRows<1>) return false;
    if (format.type != CacheType::float32 || format.width != kRowWidth || queries.count != 16 ||
        rows.count % kCacheBlock)
      return false;
    for (int r = 0; r < rows.count; r += kCacheBlock)
      if (static_cast<const float*>(rows.entries[r]) + (kCacheBlock - 1) * kRowWidth !=
          rows.entries[r + kCacheBlock - 1])
        return false;
    return true;
  }

  static void load(const RowFormat& format, const QueryLanes& queries, const RangeRows& rows,
                   const AttentionTile& tile) {
    if (in_place(format, queries, rows)) return;
    for (int64_t c = 0; c < format.tile_chunks(); ++c) {
      const int64_t start = c * kTileColumns, rest = format.width - start;
      const int64_t columns = rest < kTileColumns ? rest : kTileColumns;
      float* out = tile.values + c * kTileRows * kTileColumns;
      for (int r = 0; r < rows.count; ++r, out += kTileColumns) {
        convert<Lanes>(format, rows.entries[r], rows.scales[r], start, columns, out);
        for (int64_t j = columns; j % 16; ++j) out[j] = 0;
      }
      std::memset(out, 0, spare_rows(rows.count) * kTileColumns * sizeof(float));
    }
  }

  // Scores of `rows` rows, `stride` apart, for `vectors` x 16 lanes, over some columns.
  template <int64_t stride, int rows, int vectors>
  static TRTCODER_INLINE void step_scores(const float* query, int64_t lanes, const float* tile,
                                          int64_t columns, bool is_first, float* scores,
                                          RowsAhead* ahead = nullptr) {
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const float* before = scores + (r * vectors + v) * 16;
        sum[r][v] = is_first ? Lanes::broadcast(0.0f) : Lanes::load(before);
      }
    for (int64_t j = 0; j < columns; ++j) {
      if (stride == kRowWidth && j % 16 == 0) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) __builtin_prefetch(tile + r * stride + j + 16);
        ahead->lines(rows / 2);
      }
      F q[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) q[v] = Lanes::load(query + j * lanes + v * 16);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const F k = Lanes::broadcast(tile[r * stride + j]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[r][v] = Lanes::fma(k, q[v], sum[r][v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) Lanes::store(scores + (r * vectors + v) * 16, sum[r][v]);
  }

  template <int vectors>
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    constexpr int rows = Lanes::template kScoreRows<vectors>;
    const auto* query = static_cast<const float*>(queries.words) + lane;
    if constexpr (vectors == 1) {
      if (in_place(format, queries, range)) {
        for (int r = 0; r < range.count; r += rows)
          step_scores<kRowWidth, rows, 1>(query, queries.count,
                                          static_cast<const float*>(range.entries[r]), kRowWidth,
                                          true, tile.weights + r * 16, &ahead);
        return;
      }
    }
    for (int64_t c = 0; c < format.tile_chunks(); ++c) {
      const int64_t start = c * kTileColumns, rest = format.width - start;
      for (int r = 0; r < range.count; r += rows) {
        ahead.rows(2);
        step_scores<kTileColumns, rows, vectors>(
            query + start * queries.count, queries.count,
            tile.values + (c * kTileRows + r) * kTileColumns,
            rest < kTileColumns ? rest : kTileColumns, c == 0, tile.weights + r * vectors * 16);
      }
    }
  }

  // Adds some columns of rows, `stride` apart, to their mix.
  template <int64_t stride, int columns, int vectors>
  static TRTCODER_INLINE void add_rows(const float* weights, int count, const float* row,
                                       F (&sum)[columns][vectors]) {
    for (int r = 0; r < count; ++r, row += stride) {
      if (stride == kRowWidth) __builtin_prefetch(row + columns);
      F w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) w[v] = Lanes::load(weights + (r * vectors + v) * 16);
#pragma GCC unroll 16
      for (int j = 0; j < columns; ++j) {
        const F value = Lanes::broadcast(row[j]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[j][v] = Lanes::fma(value, w[v], sum[j][v]);
      }
    }
  }

  template <int vectors>
  static void mix(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                  const RangeRows& rows, const State& state, const AttentionTile& tile,
                  const Shares<vectors>& shares, RowsAhead& ahead) {
    constexpr int columns = Lanes::template kMixColumns<vectors>;
    const bool reads_cache = vectors == 1 && in_place(format, queries, rows);
    for (int64_t j = 0; j < format.latent; j += columns) {
      F sum[columns][vectors];
#pragma GCC unroll 16
      for (int i = 0; i < columns; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[i][v] = Lanes::broadcast(0.0f);
      if constexpr (vectors == 1)
        for (int r = 0; reads_cache && r < rows.count; r += kCacheBlock) {
          ahead.lines(columns / 2);
          add_rows<kRowWidth>(tile.weights + r * 16, kCacheBlock,
                              static_cast<const float*>(rows.entries[r]) + j, sum);
        }
      if (!reads_cache) {
        ahead.rows(2);
        const int64_t chunk = j / kTileColumns;
        add_rows<kTileColumns>(tile.weights, rows.count,
                               tile.values + chunk * kTileRows * kTileColumns + j % kTileColumns,
                               sum);
      }
      Softmax<Lanes>::template add_mixed<columns, vectors>(
          sum, queries.count, state.mixed + j * queries.count + lane, shares);
    }
  }
};

}  // namespace
}  // namespace trtcoder
