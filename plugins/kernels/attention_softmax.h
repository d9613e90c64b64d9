// Softmax over the scores of a range, and how a range and a state come together.
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/attention_kernels.h"
#include "kernels/exponential.h"

#define TRTCODER_INLINE inline __attribute__((always_inline))
#define TRTCODER_INLINE_LAMBDA __attribute__((always_inline))

namespace trtcoder {
namespace {

template <class Lanes>
struct Softmax {
  using F = typename Lanes::F;

  // e^x for x <= 0: 1 for 0, and 0 where little is left. NaN stays NaN.
  static TRTCODER_INLINE F weight_of(F x) {
    return Lanes::where_less(x, Lanes::broadcast(-86.0f), Lanes::broadcast(0.0f),
                             exponential<Lanes>(x));
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

  // Makes weights of scores, and merges largest score and sum. Lanes that see the row at `poisoned`
  // get NaN for their sum.
  template <int vectors>
  static void run(const QueryLanes& queries, int64_t lane, const RangeRows& rows, int poisoned,
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

  // Merges the mix of a range into some rows of that of the state.
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
};

}  // namespace
}  // namespace trtcoder
