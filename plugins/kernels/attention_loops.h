// `AttentionKernels` over the lanes of any instruction set. A lanes type adds to those of
// `lanes.h` what `portable/attention.cpp` says.
#pragma once

#include "kernels/attention_float.h"
#include "kernels/attention_int.h"
#include "kernels/attention_project.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct AttentionLoops {
  using F = typename Lanes::F;

  static void attend(const RowFormat& format, const QueryLanes& queries, RangeRows& rows,
                     const RangeRows& next, const State& state, bool is_empty,
                     std::byte* scratch) {
    if (format.arithmetic == Arithmetic::int16)
      return attend_range<IntRange<Lanes>>(format, queries, rows, next, state, is_empty, scratch);
    attend_range<FloatRange<Lanes>>(format, queries, rows, next, state, is_empty, scratch);
  }

  template <class Range>
  static void attend_range(const RowFormat& format, const QueryLanes& queries, RangeRows& rows,
                           const RangeRows& next, const State& state, bool is_empty,
                           std::byte* scratch) {
    Range::begin();
    const AttentionTile tile(format, scratch);
    RowsAhead ahead(format, next);
    Range::load(format, queries, rows, tile);
    // The first row that is not finite: lanes that see it become NaN, and it is left out.
    int poisoned = kRangeRows;
    for (int64_t lane = 0; lane < queries.count;) {
      const auto step = [&]<int vectors>() {
        const auto make_scores = [&] {
          Range::template scores<vectors>(format, queries, lane, rows, tile, ahead);
        };
        make_scores();
        if (lane == 0 && has_fault(tile.weights, rows.count, vectors * 16)) {
          poisoned = drop_faults(format, rows);
          if (poisoned < kRangeRows) {
            Range::load(format, queries, rows, tile);
            make_scores();
          }
        }
        typename Softmax<Lanes>::template Shares<vectors> shares;
        shares.is_empty = is_empty;
        Softmax<Lanes>::template run<vectors>(queries, lane, rows, poisoned, state, tile.weights,
                                              shares);
        Range::template mix<vectors>(format, queries, lane, rows, state, tile, shares, ahead);
        lane += vectors * 16;
      };
      const int64_t left = (queries.count - lane) / 16;
      if constexpr (Lanes::kMaxVectors >= 4) {
        if (left >= 4) {
          step.template operator()<4>();
          continue;
        }
      }
      if constexpr (Lanes::kMaxVectors >= 2) {
        if (left >= 2) {
          step.template operator()<2>();
          continue;
        }
      }
      step.template operator()<1>();
    }
    Range::end();
  }

  // Whether a score of the first lane, which is one of a token, is not finite: a row that is not
  // makes every lane's so.
  static bool has_fault(const float* scores, int count, int stride) {
    for (int r = 0; r < count; ++r)
      if (!(std::fabs(scores[r * stride]) <= FLT_MAX)) return true;
    return false;
  }

  static void fold(const RowFormat&, int64_t lanes, const State& state, bool is_empty,
                   const State& part, int64_t start, int64_t stop) {
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      F state_share, part_share;
      Softmax<Lanes>::merge(state.largest + lane, state.sum + lane, is_empty,
                            Lanes::load(part.largest + lane), Lanes::load(part.sum + lane),
                            state_share, part_share);
      for (int64_t j = start; j < stop; ++j) {
        float* p = state.mixed + j * lanes + lane;
        const F mix = Lanes::load(part.mixed + j * lanes + lane);
        Lanes::store(p, is_empty ? mix
                                 : Lanes::fma(mix, part_share,
                                              Lanes::mul(Lanes::load(p), state_share)));
      }
    }
  }

  static void finish(const RowFormat&, int64_t lanes, const State& state, int64_t start,
                     int64_t stop, int64_t count, float* out, int64_t stride) {
    for (int64_t lane = 0; lane < count; lane += 16) {
      const F share = Lanes::div(Lanes::broadcast(1.0f), Lanes::load(state.sum + lane));
      for (int64_t j = start; j < stop; j += 16) {
        alignas(64) float by_row[16 * 16], by_lane[16 * 16];
        // The 0 makes +0 of -0, whose sign depends on rows that the lane does not see.
        for (int i = 0; i < 16; ++i) {
          const F mix = Lanes::mul(Lanes::load(state.mixed + (j + i) * lanes + lane), share);
          Lanes::store(by_row + i * 16, Lanes::add(mix, Lanes::broadcast(0.0f)));
        }
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

  static void pack_queries(const RowFormat& format, const uint32_t* words, int64_t count,
                           int64_t lanes, uint32_t* out) {
    transpose(words, count, format.query_words(), out, lanes);
  }

  static constexpr AttentionKernels table{Arithmetic::float32,
                                          HeadProducts<Lanes>::run,
                                          IntRange<Lanes>::quantize_query,
                                          pack_queries,
                                          transpose,
                                          attend,
                                          fold,
                                          finish};
};

}  // namespace
}  // namespace trtcoder
