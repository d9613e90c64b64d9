// A range of an int8 cache in whole numbers: queries, and rows' weights times their scales, are
// int16, and sums of a group's products are exact.
#pragma once

#include <cstring>

#include "kernels/attention_rows.h"
#include "kernels/attention_softmax.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct IntRange {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  template <int vectors>
  using Shares = typename Softmax<Lanes>::template Shares<vectors>;

  // Around all that is done with a range.
  static void begin() {}
  static void end() {}

  static void quantize_query(const RowFormat& format, const float* query, int16_t* codes,
                             float* scales) {
    const int64_t group = format.group;
    for (int64_t g = 0; g < format.groups(); ++g, query += group, codes += group) {
      float largest = 0;
      int64_t j = 0;
      I bits = Lanes::broadcast_int(0);
      for (; j + 16 <= group; j += 16)
        bits = Lanes::max_int(bits, Lanes::magnitude_bits(Lanes::load(query + j)));
      int32_t found = Lanes::max_lane(bits);
      for (; j < group; ++j) {
        int32_t one;
        std::memcpy(&one, query + j, 4);
        one &= 0x7fffffff;
        found = one > found ? one : found;
      }
      std::memcpy(&largest, &found, 4);
      const bool codable = largest >= 0x1p-100f && largest <= FLT_MAX;
      // What is too small has score 0, what is not finite NaN.
      scales[g] = codable ? largest / 32767.0f : largest < 1.0f ? 0.0f : NAN;
      const float inverse = codable ? 32767.0f / largest : 0.0f;
      for (j = 0; j < group; ++j) {
        // The sum's last bits are the whole number, rounded to even.
        const float shifted = (codable ? query[j] : 0.0f) * inverse + 0x1.8p23f;
        int32_t word;
        std::memcpy(&word, &shifted, 4);
        codes[j] = static_cast<int16_t>(word);
      }
    }
  }

  static void load(const RowFormat& format, const QueryLanes&, const RangeRows& rows,
                   const AttentionTile& tile) {
    const int64_t group = format.group, wide = group / 32 * 32;
    for (int r = 0; r < rows.count; r += 2) {
      // A last row without a partner is its own, and meets a weight of 0.
      const int next = r + 1 < rows.count ? r + 1 : r;
      const auto* low = static_cast<const int8_t*>(rows.entries[r]);
      const auto* high = static_cast<const int8_t*>(rows.entries[next]);
      for (int64_t g = 0; g < format.groups(); ++g, low += group, high += group) {
        int16_t* codes = tile.codes + (g * kTileRows + r) * kScaleGroup;
        for (int64_t j = 0; j < wide; j += 32) {
          Lanes::widen_bytes(low + j, codes + j);
          Lanes::widen_bytes(high + j, codes + kScaleGroup + j);
        }
        for (int64_t j = wide; j < group; ++j) {
          codes[j] = low[j];
          codes[kScaleGroup + j] = high[j];
        }
        tile.scales[g * kTileRows + r] = rows.scales[r][g];
        tile.scales[g * kTileRows + r + 1] = rows.scales[next][g];
        if (g * group >= format.latent) continue;
        int32_t* pairs = tile.row_pairs + (g * (kTileRows / 2) + r / 2) * kScaleGroup;
        for (int64_t j = 0; j < wide; j += 32) Lanes::pair_bytes(low + j, high + j, pairs + j);
        for (int64_t j = wide; j < group; ++j)
          pairs[j] = static_cast<int32_t>(uint32_t(uint16_t(low[j])) |
                                          uint32_t(uint16_t(high[j])) << 16);
      }
    }
    const int64_t spare = spare_rows(rows.count);
    for (int64_t g = 0; g < format.groups(); ++g) {
      const int64_t end = g * kTileRows + rows.count;
      std::memset(tile.codes + end * kScaleGroup, 0, spare * kScaleGroup * sizeof(int16_t));
      std::memset(tile.scales + end, 0, spare * sizeof(float));
    }
  }

  // Adds to the scores what one group of columns gives.
  template <int rows, int vectors>
  static TRTCODER_INLINE void step_scores(const int16_t* query, const float* query_scales,
                                          int64_t lanes, const int16_t* tile, const float* scales,
                                          int64_t pairs, bool is_first, float* scores) {
    I sum[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] = Lanes::broadcast_int(0);
    for (int64_t j = 0; j < pairs; ++j) {
      I q[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) q[v] = Lanes::load_int(query + (j * lanes + v * 16) * 2);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const I k = Lanes::broadcast_word(tile + r * kScaleGroup + j * 2);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[r][v] = Lanes::dot_pairs(sum[r][v], q[v], k);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const F q_scale = Lanes::load(query_scales + v * 16);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        float* score = scores + (r * vectors + v) * 16;
        const F both = Lanes::mul(q_scale, Lanes::broadcast(scales[r]));
        const F before = is_first ? Lanes::broadcast(0.0f) : Lanes::load(score);
        Lanes::store(score, Lanes::fma(Lanes::from_int(sum[r][v]), both, before));
      }
    }
  }

  template <int vectors>
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    constexpr int rows = Lanes::template kScoreRows<vectors>;
    const auto* query = static_cast<const int16_t*>(queries.words) + lane * 2;
    const int64_t pairs = format.group / 2;
    for (int64_t g = 0; g < format.groups(); ++g)
      for (int r = 0; r < range.count; r += rows) {
        ahead.rows(2);
        step_scores<rows, vectors>(query + g * pairs * queries.count * 2,
                                   queries.scales + g * queries.count + lane, queries.count,
                                   tile.codes + (g * kTileRows + r) * kScaleGroup,
                                   tile.scales + g * kTileRows + r, pairs, g == 0,
                                   tile.weights + r * vectors * 16);
      }
  }

  // Some columns of the mix of all rows; a sum's unit is `unit`.
  template <int columns, int vectors>
  static TRTCODER_INLINE void step_mix(const int32_t* weights, int pairs, const int32_t* tile,
                                       const F* unit, int64_t lanes, float* mixed,
                                       const Shares<vectors>& shares) {
    I sum[columns][vectors];
#pragma GCC unroll 16
    for (int j = 0; j < columns; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[j][v] = Lanes::broadcast_int(0);
    for (int r = 0; r < pairs; ++r) {
      I w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) w[v] = Lanes::load_int(weights + (r * vectors + v) * 16);
#pragma GCC unroll 16
      for (int j = 0; j < columns; ++j) {
        const I value = Lanes::broadcast_word(tile + r * kScaleGroup + j);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[j][v] = Lanes::dot_pairs(sum[j][v], w[v], value);
      }
    }
    F mix[columns][vectors];
#pragma GCC unroll 16
    for (int j = 0; j < columns; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) mix[j][v] = Lanes::mul(Lanes::from_int(sum[j][v]), unit[v]);
    Softmax<Lanes>::template add_mixed<columns, vectors>(mix, lanes, mixed, shares);
  }

  template <int columns, int vectors>
  static void mix_group(int64_t group, const int32_t* weights, int pairs, const int32_t* tile,
                        const F* unit, int64_t lanes, float* mixed,
                        const Shares<vectors>& shares) {
    if constexpr (columns > 2) {
      if (group < columns)
        return mix_group<columns / 2, vectors>(group, weights, pairs, tile, unit, lanes, mixed,
                                               shares);
    }
    for (int64_t j = 0; j < group; j += columns)
      step_mix<columns, vectors>(weights, pairs, tile + j, unit, lanes, mixed + j * lanes, shares);
  }

  // The largest of some scales, which are not negative, and 0 behind the last.
  static float largest_of(const float* scales, int count) {
    I bits = Lanes::broadcast_int(0);
    for (int r = 0; r < count; r += 16)
      bits = Lanes::max_int(bits, Lanes::magnitude_bits(Lanes::load(scales + r)));
    const int32_t found = Lanes::max_lane(bits);
    float largest;
    std::memcpy(&largest, &found, 4);
    return largest;
  }

  // Weights of a group as whole numbers: a row's weight times its scale, in units of the largest
  // scale among the rows that the lane sees.
  template <int vectors>
  static void quantize_weights(const QueryLanes& queries, int64_t lane, const RangeRows& rows,
                               const float* weights, const float* scales, int32_t* pairs,
                               F* unit) {
    const bool hides = rows.count && rows.first + rows.offset[rows.count - 1] > queries.first_last;
    const float largest = hides ? 0.0f : largest_of(scales, rows.count);
    for (int v = 0; v < vectors; ++v) {
      F top = Lanes::broadcast(0.0f);
      if (hides) {
        const F seen = Softmax<Lanes>::rows_seen(queries, lane + v * 16, rows.first);
        for (int r = 0; r < rows.count; ++r) {
          const F s = Lanes::broadcast(scales[r]);
          const F offset = Lanes::broadcast(static_cast<float>(rows.offset[r]));
          top = Lanes::where_less(offset, seen, Lanes::max(s, top), top);
        }
      } else {
        top = Lanes::broadcast(largest);
      }
      const F whole = Lanes::broadcast(32767.0f), zero = Lanes::broadcast(0.0f);
      const F inverse = Lanes::where_less(zero, top, Lanes::div(whole, top), zero);
      unit[v] = Lanes::div(top, whole);
      // Scales are 0 behind the last row.
      float factors[kTileRows + 14];
      if (!hides)
        for (int r = 0; r < rows.count; r += 16)
          Lanes::store(factors + r, Lanes::mul(Lanes::load(scales + r), inverse));
      const auto code = [&](int r) {
        const F factor = hides ? Lanes::mul(Lanes::broadcast(scales[r]), inverse)
                               : Lanes::broadcast(factors[r]);
        return Lanes::to_int(Lanes::mul(Lanes::load(weights + (r * vectors + v) * 16), factor));
      };
      int r = 0;
      for (; r + 2 <= rows.count; r += 2)
        Lanes::store_int(pairs + (r / 2 * vectors + v) * 16, Lanes::pair(code(r), code(r + 1)));
      if (r < rows.count)
        Lanes::store_int(pairs + (r / 2 * vectors + v) * 16,
                         Lanes::pair(code(r), Lanes::broadcast_int(0)));
    }
  }

  template <int vectors>
  static void mix(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                  const RangeRows& rows, const State& state, const AttentionTile& tile,
                  const Shares<vectors>& shares, RowsAhead& ahead) {
    const int64_t lanes = queries.count;
    for (int64_t g = 0; g < format.latent / format.group; ++g) {
      F unit[vectors];
      ahead.rows(2);
      quantize_weights<vectors>(queries, lane, rows, tile.weights, tile.scales + g * kTileRows,
                                tile.pairs, unit);
      mix_group<Lanes::template kIntMixColumns<vectors>, vectors>(
          format.group, tile.pairs, (rows.count + 1) / 2,
          tile.row_pairs + g * (kTileRows / 2) * kScaleGroup, unit, lanes,
          state.mixed + g * format.group * lanes + lane, shares);
    }
  }
};

}  // namespace
}  // namespace trtcoder
