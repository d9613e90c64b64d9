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

  static void load(const RowFormat& format, const RangeRows& rows, const AttentionTile& tile) {
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

  // Scores of `rows` rows for `vectors` x 16 lanes, over one chunk of columns.
  template <int rows, int vectors>
  static TRTCODER_INLINE void step_scores(const float* query, int64_t lanes, const float* tile,
                                          int64_t columns, bool is_first, float* scores) {
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const float* before = scores + (r * vectors + v) * 16;
        sum[r][v] = is_first ? Lanes::broadcast(0.0f) : Lanes::load(before);
      }
    for (int64_t j = 0; j < columns; ++j) {
      F q[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) q[v] = Lanes::load(query + j * lanes + v * 16);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const F k = Lanes::broadcast(tile[r * kTileColumns + j]);
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
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane, int count,
                     const AttentionTile& tile, RowsAhead& ahead) {
    constexpr int rows = Lanes::template kScoreRows<vectors>;
    const auto* query = static_cast<const float*>(queries.words) + lane;
    for (int64_t c = 0; c < format.tile_chunks(); ++c) {
      const int64_t start = c * kTileColumns, rest = format.width - start;
      for (int r = 0; r < count; r += rows) {
        ahead.step();
        step_scores<rows, vectors>(query + start * queries.count, queries.count,
                                   tile.values + (c * kTileRows + r) * kTileColumns,
                                   rest < kTileColumns ? rest : kTileColumns, c == 0,
                                   tile.weights + r * vectors * 16);
      }
    }
  }

  // Some columns of the mix of all rows.
  template <int columns, int vectors>
  static TRTCODER_INLINE void step_mix(const float* weights, int count, const float* tile,
                                       int64_t lanes, float* mixed,
                                       const Shares<vectors>& shares) {
    F sum[columns][vectors];
#pragma GCC unroll 16
    for (int j = 0; j < columns; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[j][v] = Lanes::broadcast(0.0f);
    for (int r = 0; r < count; ++r) {
      F w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) w[v] = Lanes::load(weights + (r * vectors + v) * 16);
#pragma GCC unroll 16
      for (int j = 0; j < columns; ++j) {
        const F value = Lanes::broadcast(tile[r * kTileColumns + j]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[j][v] = Lanes::fma(value, w[v], sum[j][v]);
      }
    }
    Softmax<Lanes>::template add_mixed<columns, vectors>(sum, lanes, mixed, shares);
  }

  template <int vectors>
  static void mix(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                  const RangeRows& rows, const State& state, const AttentionTile& tile,
                  const Shares<vectors>& shares, RowsAhead& ahead) {
    constexpr int columns = Lanes::template kMixColumns<vectors>;
    for (int64_t j = 0; j < format.latent; j += columns) {
      const int64_t chunk = j / kTileColumns;
      ahead.step();
      step_mix<columns, vectors>(tile.weights, rows.count,
                                 tile.values + chunk * kTileRows * kTileColumns + j % kTileColumns,
                                 queries.count, state.mixed + j * queries.count + lane, shares);
    }
  }
};

}  // namespace
}  // namespace trtcoder
