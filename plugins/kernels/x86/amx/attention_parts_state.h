// States whose rows are lanes, as tiles leave their sums.
#pragma once

#include <cstring>

#include "kernels/attention_softmax.h"
#include "kernels/x86/avx512/attention_lanes.h"

namespace trtcoder {
namespace {

struct LaneStates {
  using Lanes = Avx512AttentionLanes;
  using F = Lanes::F;

  // What sixteen lanes' states are multiplied with, and what comes to them.
  struct Shares {
    bool is_empty;
    alignas(64) float state[16];
    alignas(64) float fresh[16];

    Shares(bool is_empty, F old, F part) : is_empty(is_empty) {
      Lanes::store(state, old);
      Lanes::store(fresh, part);
    }
    // Merges sixteen values of a lane.
    TRTCODER_INLINE void merge(int lane, F mix, float* mixed) const {
      if (!is_empty)
        mix = Lanes::fma(mix, Lanes::broadcast(fresh[lane]),
                         Lanes::mul(Lanes::load(mixed), Lanes::broadcast(state[lane])));
      Lanes::store(mixed, mix);
    }
  };

  // As `AttentionKernels` says.
  static void fold(const RowFormat& format, int64_t lanes, const State& state, bool is_empty,
                   const State& part, int64_t start, int64_t stop) {
    const int64_t stride = format.padded_latent();
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      F old, fresh;
      Softmax<Lanes>::merge(state.largest + lane, state.sum + lane, is_empty,
                            Lanes::load(part.largest + lane), Lanes::load(part.sum + lane), old,
                            fresh);
      const Shares shares(is_empty, old, fresh);
      for (int i = 0; i < 16; ++i)
        for (int64_t j = start; j < stop; j += 16) {
          const int64_t at = (lane + i) * stride + j;
          shares.merge(i, Lanes::load(part.mixed + at), state.mixed + at);
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
        const auto mask = __mmask16(stop - j >= 16 ? 0xffff : (1 << (stop - j)) - 1);
        _mm512_mask_storeu_ps(out + lane * stride + j, mask, value);
      }
    }
  }
};

}  // namespace
}  // namespace trtcoder
