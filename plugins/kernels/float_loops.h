// Products with float32 matrices over the lanes of any instruction set.
//
// Lanes are rows of the matrix, so whatever the vectors, an output is the same sum over the columns:
// from the first to the last, one fused multiply-add each.
#pragma once

#include "kernels/matrix.h"
#include "kernels/products.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct FloatLoops {
  using F = typename Lanes::F;

  // What the registers hold beside a column of the panels and a token's value, and how many tokens
  // a group has at most.
  static constexpr int kSums = Lanes::kFloatSums, kTokens = Lanes::kFloatTokens;
  // How far ahead of the products a panel is fetched, in values.
  static constexpr int kAhead = 1024;

  // Groups are the fewest that can be, as equal as possible.
  static int group_size(int64_t tokens) {
    const int64_t groups = (tokens + kTokens - 1) / kTokens;
    return int((tokens + groups - 1) / groups);
  }

  // How many panels' sums the registers hold.
  static constexpr int panels_for(int tokens) {
    return kMaxPanels * tokens <= kSums ? kMaxPanels : 2 * tokens <= kSums ? 2 : 1;
  }

  template <int panels, int tokens>
  static __attribute__((noinline)) void panels_of(const float* weights, int64_t width,
                                                  const float* x, int64_t x_stride, float* out,
                                                  int64_t stride) {
    F sums[panels][tokens];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p)
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t) sums[p][t] = Lanes::broadcast(0.0f);
    // Every third row has a pointer: the next ones are a stride and two away, which an address
    // can say. Twelve pointers would not fit into the registers.
    const float* rows[(tokens + 2) / 3];
#pragma GCC unroll 16
    for (int i = 0; i < (tokens + 2) / 3; ++i) rows[i] = x + 3 * i * x_stride;
    const float* end = weights + width * 16;
    for (; weights < end; weights += 16) {
      F column[panels];
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) {
        Lanes::prefetch(weights + p * width * 16 + kAhead);
        column[p] = Lanes::load(weights + p * width * 16);
      }
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t) {
        const F value = Lanes::broadcast(rows[t / 3][t % 3 * x_stride]);
#pragma GCC unroll 4
        for (int p = 0; p < panels; ++p) sums[p][t] = Lanes::fma(column[p], value, sums[p][t]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < (tokens + 2) / 3; ++i) ++rows[i];
    }
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) Lanes::store(out + t * stride + p * 16, sums[p][t]);
  }

  // As many panels as fit at once, then the rest.
  template <int tokens, int at_once = panels_for(tokens)>
  static void panels_by(const float* weights, int count, int64_t width, const Activations& x,
                        float* out, int64_t stride) {
    for (; count >= at_once; count -= at_once, weights += at_once * width * 16, out += at_once * 16)
      panels_of<at_once, tokens>(weights, width, x.rows, x.stride, out, stride);
    if constexpr (at_once > 1)
      panels_by<tokens, at_once / 2>(weights, count, width, x, out, stride);
  }

  // Finds the product of the group's size.
  template <int tokens = kTokens>
  static void panels_for_group(const float* weights, int count, int64_t width,
                               const Activations& x, float* out, int64_t stride) {
    if constexpr (tokens > 0) {
      if (x.tokens == tokens)
        panels_by<tokens>(weights, count, width, x, out, stride);
      else
        panels_for_group<tokens - 1>(weights, count, width, x, out, stride);
    }
  }

  static void panels(const Matrix& matrix, int64_t first, int count, const Activations& x,
                     float* out, int64_t stride) {
    const float* weights = matrix.values() + first * matrix.width * 16;
    panels_for_group(weights, count, matrix.width, x, out, stride);
  }
};

}  // namespace
}  // namespace trtcoder
