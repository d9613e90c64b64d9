// `AttentionKernels` over the lanes of any instruction set. A lanes type adds to those of
// `lanes.h` what `portable/attention.cpp` says.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstring>

#include "kernels/attention_kernels.h"
#include "kernels/attention_rows.h"
#include "kernels/exponential.h"

#define TRTCODER_INLINE inline __attribute__((always_inline))

namespace trtcoder {
namespace {

template <class Lanes>
struct AttentionLoops {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  using Tile = AttentionTile;

  // e^x for x <= 0: 1 for 0, and 0 where little is left. NaN stays NaN.
  static TRTCODER_INLINE F weight_of(F x) {
    return Lanes::where_less(x, Lanes::broadcast(-86.0f), Lanes::broadcast(0.0f),
                             exponential<Lanes>(x));
  }

  // Scores of `rows` rows for `vectors` x 16 lanes, over one chunk of columns.
  template <int rows, int vectors>
  static TRTCODER_INLINE void float_scores(const float* query, int64_t lanes, const float* tile,
                                           int64_t columns, bool is_first, float* scores) {
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v)
        sum[r][v] = is_first ? Lanes::broadcast(0.0f) : Lanes::load(scores + (r * vectors + v) * 16);
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

  // Adds to the scores what one group of columns gives.
  template <int rows, int vectors>
  static TRTCODER_INLINE void int_scores(const int16_t* query, const float* query_scales,
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
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane, int count,
                     const Tile& tile, RowsAhead& ahead) {
    constexpr int rows = Lanes::template kScoreRows<vectors>;
    if (format.arithmetic == Arithmetic::int16) {
      const auto* query = static_cast<const int16_t*>(queries.words) + lane * 2;
      const int64_t pairs = format.group / 2;
      for (int64_t g = 0; g < format.groups(); ++g)
        for (int r = 0; r < count; r += rows) {
          ahead.step();
          int_scores<rows, vectors>(query + g * pairs * queries.count * 2,
                                    queries.scales + g * queries.count + lane, queries.count,
                                    tile.codes + (g * kTileRows + r) * kScaleGroup,
                                    tile.scales + g * kTileRows + r, pairs, g == 0,
                                    tile.weights + r * vectors * 16);
        }
      return;
    }
    const auto* query = static_cast<const float*>(queries.words) + lane;
    for (int64_t c = 0; c < format.tile_chunks(); ++c) {
      const int64_t start = c * kTileColumns, rest = format.width - start;
      for (int r = 0; r < count; r += rows) {
        ahead.step();
        float_scores<rows, vectors>(query + start * queries.count, queries.count,
                                    tile.values + (c * kTileRows + r) * kTileColumns,
                                    rest < kTileColumns ? rest : kTileColumns, c == 0,
                                    tile.weights + r * vectors * 16);
      }
    }
  }

  // How a range and a state come together: what each is multiplied with.
  template <int vectors>
  struct Shares {
    bool is_empty;
    F state[vectors];
    F range[vectors];
  };

  static TRTCODER_INLINE void merge(float* largest, float* sum, bool is_empty, F range_largest,
                                    F range_sum, F& state_share, F& range_share) {
    if (is_empty) {
      Lanes::store(largest, range_largest);
      Lanes::store(sum, range_sum);
      state_share = range_share = Lanes::broadcast(0.0f);  // nobody reads them
      return;
    }
    const F before = Lanes::load(largest);
    const F both = Lanes::max(range_largest, before);
    state_share = weight_of(Lanes::sub(before, both));
    range_share = weight_of(Lanes::sub(range_largest, both));
    Lanes::store(largest, both);
    Lanes::store(sum, Lanes::fma(range_sum, range_share,
                                 Lanes::mul(Lanes::load(sum), state_share)));
  }

  // Makes weights of scores, and merges largest score and sum.
  template <int vectors>
  static void softmax(const QueryLanes& queries, int64_t lane, const RangeRows& rows, int poisoned,
                      const State& state, float* weights, Shares<vectors>& shares) {
    const bool hides = rows.count && rows.first + rows.offset[rows.count - 1] > queries.first_last;
    for (int v = 0; v < vectors; ++v) {
      const F seen = rows_seen(queries, lane + v * 16, rows.first);
      F largest = Lanes::broadcast(-FLT_MAX);
      for (int r = 0; r < rows.count; ++r) {
        float* score = weights + (r * vectors + v) * 16;
        F s = Lanes::load(score);
        if (hides) {
          s = Lanes::where_less(Lanes::broadcast(static_cast<float>(rows.offset[r])), seen, s,
                                Lanes::broadcast(-INFINITY));
          Lanes::store(score, s);
        }
        largest = Lanes::max(s, largest);
      }
      F sum = Lanes::broadcast(0.0f);
      for (int r = 0; r < rows.count; ++r) {
        float* weight = weights + (r * vectors + v) * 16;
        const F w = weight_of(Lanes::sub(Lanes::load(weight), largest));
        Lanes::store(weight, w);
        sum = Lanes::add(sum, w);
      }
      if (poisoned < kRangeRows)
        sum = Lanes::where_less(Lanes::broadcast(static_cast<float>(poisoned)), seen,
                                Lanes::broadcast(NAN), sum);
      merge(state.largest + lane + v * 16, state.sum + lane + v * 16, shares.is_empty, largest, sum,
            shares.state[v], shares.range[v]);
    }
  }

  // How many positions from `first` on each lane sees.
  static TRTCODER_INLINE F rows_seen(const QueryLanes& queries, int64_t lane, int32_t first) {
    return Lanes::from_int(
        Lanes::add_int(Lanes::load_int(queries.last + lane), Lanes::broadcast_int(1 - first)));
  }

  template <int columns, int vectors>
  static TRTCODER_INLINE void float_mix(const float* weights, int count, const float* tile,
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
    add_mixed<columns, vectors>(sum, lanes, mixed, shares);
  }

  template <int columns, int vectors>
  static TRTCODER_INLINE void add_mixed(const F (&sum)[columns][vectors], int64_t lanes,
                                        float* mixed, const Shares<vectors>& shares) {
    if (shares.is_empty) {
#pragma GCC unroll 16
      for (int j = 0; j < columns; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) Lanes::store(mixed + j * lanes + v * 16, sum[j][v]);
      return;
    }
#pragma GCC unroll 16
    for (int j = 0; j < columns; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        float* p = mixed + j * lanes + v * 16;
        Lanes::store(p, Lanes::fma(sum[j][v], shares.range[v],
                                   Lanes::mul(Lanes::load(p), shares.state[v])));
      }
  }

  template <int columns, int vectors>
  static TRTCODER_INLINE void int_mix(const int32_t* weights, int pairs, const int32_t* tile,
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
    add_mixed<columns, vectors>(mix, lanes, mixed, shares);
  }

  template <int columns, int vectors>
  static void int_mix_group(int64_t group, const int32_t* weights, int pairs, const int32_t* tile,
                            const F* unit, int64_t lanes, float* mixed,
                            const Shares<vectors>& shares) {
    if constexpr (columns > 2) {
      if (group < columns)
        return int_mix_group<columns / 2, vectors>(group, weights, pairs, tile, unit, lanes, mixed,
                                                   shares);
    }
    for (int64_t j = 0; j < group; j += columns)
      int_mix<columns, vectors>(weights, pairs, tile + j, unit, lanes, mixed + j * lanes, shares);
  }

  // Weights of a group as whole numbers: a row's weight times its scale, in units of the largest
  // scale among the rows that the lane sees.
  template <int vectors>
  static void quantize_weights(const QueryLanes& queries, int64_t lane, const RangeRows& rows,
                               const float* weights, const float* scales, int32_t* pairs,
                               F* unit) {
    const bool hides = rows.count && rows.first + rows.offset[rows.count - 1] > queries.first_last;
    for (int v = 0; v < vectors; ++v) {
      F top = Lanes::broadcast(0.0f);
      if (hides) {
        const F seen = rows_seen(queries, lane + v * 16, rows.first);
        for (int r = 0; r < rows.count; ++r) {
          const F s = Lanes::broadcast(scales[r]);
          const F offset = Lanes::broadcast(static_cast<float>(rows.offset[r]));
          top = Lanes::where_less(offset, seen, Lanes::max(s, top), top);
        }
      } else {
        float largest = 0;
        for (int r = 0; r < rows.count; ++r) largest = scales[r] > largest ? scales[r] : largest;
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
                  const RangeRows& rows, const State& state, const Tile& tile,
                  const Shares<vectors>& shares, RowsAhead& ahead) {
    const int64_t lanes = queries.count;
    float* mixed = state.mixed + lane;
    if (format.arithmetic == Arithmetic::int16) {
      for (int64_t g = 0; g < format.latent / format.group; ++g) {
        F unit[vectors];
        ahead.step();
        quantize_weights<vectors>(queries, lane, rows, tile.weights, tile.scales + g * kTileRows,
                                  tile.pairs, unit);
        int_mix_group<Lanes::template kIntMixColumns<vectors>, vectors>(
            format.group, tile.pairs, (rows.count + 1) / 2,
            tile.row_pairs + g * (kTileRows / 2) * kScaleGroup, unit, lanes,
            mixed + g * format.group * lanes, shares);
      }
      return;
    }
    constexpr int columns = Lanes::template kMixColumns<vectors>;
    for (int64_t j = 0; j < format.latent; j += columns) {
      const int64_t chunk = j / kTileColumns;
      ahead.step();
      float_mix<columns, vectors>(tile.weights, rows.count,
                                  tile.values + chunk * kTileRows * kTileColumns + j % kTileColumns,
                                  lanes, mixed + j * lanes, shares);
    }
  }

  template <int vectors>
  static void attend_lanes(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                           const RangeRows& rows, int poisoned, const State& state,
                           bool is_empty, const Tile& tile, RowsAhead& ahead) {
    Shares<vectors> shares;
    shares.is_empty = is_empty;
    softmax<vectors>(queries, lane, rows, poisoned, state, tile.weights, shares);
    mix<vectors>(format, queries, lane, rows, state, tile, shares, ahead);
  }

  static void attend(const RowFormat& format, const QueryLanes& queries, RangeRows& rows,
                     const RangeRows& next, const State& state, bool is_empty,
                     std::byte* scratch) {
    const Tile tile(format, scratch);
    RowsAhead ahead(format, next, 2);
    load_rows<Lanes>(format, rows, tile);
    // The first row that is not finite: lanes that see it become NaN, and it is left out.
    int poisoned = kRangeRows;
    for (int64_t lane = 0; lane < queries.count;) {
      const int64_t vectors = (queries.count - lane) / 16;
      const auto run = [&]<int n>() {
        scores<n>(format, queries, lane, rows.count, tile, ahead);
        if (lane == 0 && poisoned == kRangeRows && has_fault(tile.weights, rows.count, n * 16)) {
          poisoned = drop_faults(format, rows);
          if (poisoned < kRangeRows) {
            load_rows<Lanes>(format, rows, tile);
            scores<n>(format, queries, lane, rows.count, tile, ahead);
          }
        }
        attend_lanes<n>(format, queries, lane, rows, poisoned, state, is_empty, tile, ahead);
        lane += n * 16;
      };
      if constexpr (Lanes::kMaxVectors >= 4) {
        if (vectors >= 4) {
          run.template operator()<4>();
          continue;
        }
      }
      if constexpr (Lanes::kMaxVectors >= 2) {
        if (vectors >= 2) {
          run.template operator()<2>();
          continue;
        }
      }
      run.template operator()<1>();
    }
  }

  // Whether a score of the first lane, which is one of a token, is not finite: a row that is not
  // makes every lane's so.
  static bool has_fault(const float* scores, int count, int stride) {
    for (int r = 0; r < count; ++r)
      if (!(std::fabs(scores[r * stride]) <= FLT_MAX)) return true;
    return false;
  }

  static void fold(int64_t lanes, const State& state, bool is_empty, const State& part,
                   int64_t start, int64_t stop) {
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      F state_share, part_share;
      merge(state.largest + lane, state.sum + lane, is_empty, Lanes::load(part.largest + lane),
            Lanes::load(part.sum + lane), state_share, part_share);
      for (int64_t j = start; j < stop; ++j) {
        float* p = state.mixed + j * lanes + lane;
        const F mix = Lanes::load(part.mixed + j * lanes + lane);
        Lanes::store(p, is_empty ? mix
                                 : Lanes::fma(mix, part_share,
                                              Lanes::mul(Lanes::load(p), state_share)));
      }
    }
  }

  static void finish(int64_t lanes, const State& state, int64_t start, int64_t stop, int64_t count,
                     float* out, int64_t stride) {
    for (int64_t lane = 0; lane < count; lane += 16) {
      const F share = Lanes::div(Lanes::broadcast(1.0f), Lanes::load(state.sum + lane));
      for (int64_t j = start; j < stop; j += 16) {
        alignas(64) float by_row[16 * 16], by_lane[16 * 16];
        // The 0 makes +0 of -0, whose sign depends on rows that the lane does not see.
        for (int i = 0; i < 16; ++i)
          Lanes::store(by_row + i * 16,
                       Lanes::add(Lanes::mul(Lanes::load(state.mixed + (j + i) * lanes + lane), share),
                                  Lanes::broadcast(0.0f)));
        if (lane + 16 <= count && j + 16 <= stop) {
          Lanes::transpose16(by_row, 16, out + lane * stride + j, stride);
          continue;
        }
        Lanes::transpose16(by_row, 16, by_lane, 16);
        for (int64_t i = 0; i < 16 && lane + i < count; ++i)
          std::memcpy(out + (lane + i) * stride + j, by_lane + i * 16,
                      (j + 16 <= stop ? 16 : stop - j) * sizeof(float));
      }
    }
  }

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

  static void transpose(const void* rows, int64_t count, int64_t columns, void* out,
                        int64_t lanes) {
    const auto* from = static_cast<const float*>(rows);
    auto* to = static_cast<float*>(out);
    const int64_t whole_lanes = count / 16 * 16, whole_columns = columns / 16 * 16;
    for (int64_t lane = 0; lane < whole_lanes; lane += 16)
      for (int64_t j = 0; j < whole_columns; j += 16)
        Lanes::transpose16(from + lane * columns + j, columns, to + j * lanes + lane, lanes);
    const auto move = [&](int64_t j, int64_t lane) {
      if (lane < count)
        std::memcpy(to + j * lanes + lane, from + lane * columns + j, sizeof(float));
      else
        to[j * lanes + lane] = 0.0f;
    };
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t lane = j < whole_columns ? whole_lanes : 0; lane < lanes; ++lane) move(j, lane);
  }

  template <int tokens, int vectors, class Load>
  static TRTCODER_INLINE void project_columns(int64_t inputs, int64_t outputs, Load load,
                                              const float* x, int64_t x_stride, float* y,
                                              int64_t y_stride) {
    F sum[tokens][vectors];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[t][v] = Lanes::broadcast(0.0f);
    for (int64_t k = 0; k < inputs; ++k) {
      F w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) w[v] = load(k * outputs + v * 16);
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) {
        const F one = Lanes::broadcast(x[t * x_stride + k]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[t][v] = Lanes::fma(one, w[v], sum[t][v]);
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) Lanes::store(y + t * y_stride + v * 16, sum[t][v]);
  }

  template <int tokens, class Value, class Load>
  static void project_tokens(const Value* weights, Load load, int64_t inputs, int64_t outputs,
                             const float* x, int64_t x_stride, float* y, int64_t y_stride) {
    constexpr int vectors = tokens == 1 ? 4 : Lanes::kMaxVectors >= 4 ? 4 : 1;
    int64_t n = 0;
    for (; n + vectors * 16 <= outputs; n += vectors * 16)
      project_columns<tokens, vectors>(
          inputs, outputs, [&](int64_t i) { return load(weights + n + i); }, x, x_stride, y + n,
          y_stride);
    for (; n + 16 <= outputs; n += 16)
      project_columns<tokens, 1>(
          inputs, outputs, [&](int64_t i) { return load(weights + n + i); }, x, x_stride, y + n,
          y_stride);
    if (n == outputs) return;
    // The last columns are fewer than a vector, and the memory may end behind them.
    Value last[16] = {};
    const int64_t bytes = (outputs - n) * int64_t(sizeof(Value));
    project_columns<tokens, 1>(
        inputs, outputs,
        [&](int64_t i) {
          std::memcpy(last, weights + n + i, bytes);
          return load(last);
        },
        x, x_stride, y + n, y_stride);
  }

  template <class Value, class Load>
  static void project_values(const void* weights, Load load, int64_t inputs, int64_t outputs,
                             const float* x, int64_t x_stride, int64_t tokens, float* y,
                             int64_t y_stride) {
    const auto* values = static_cast<const Value*>(weights);
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4)
      project_tokens<4>(values, load, inputs, outputs, x + t * x_stride, x_stride,
                        y + t * y_stride, y_stride);
    for (; t < tokens; ++t)
      project_tokens<1>(values, load, inputs, outputs, x + t * x_stride, x_stride,
                        y + t * y_stride, y_stride);
  }

  static void project(HeadWeights::Type type, const void* weights, int64_t inputs, int64_t outputs,
                      const float* x, int64_t x_stride, int64_t tokens, float* y,
                      int64_t y_stride) {
    const auto run = [&]<class Value>(Value, auto load) {
      project_values<Value>(weights, load, inputs, outputs, x, x_stride, tokens, y, y_stride);
    };
    if (type == HeadWeights::Type::float32) return run(float{}, Lanes::load);
    if (type == HeadWeights::Type::float16) return run(uint16_t{}, Lanes::load_half);
    run(uint16_t{}, Lanes::load_bfloat);
  }

  static constexpr AttentionKernels table{project, quantize_query, transpose,
                                          attend,  fold,           finish};
};

}  // namespace
}  // namespace trtcoder
