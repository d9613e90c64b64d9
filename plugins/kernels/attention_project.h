// Products with the matrices of heads that are not quantized.
#pragma once

#include <cstring>

#include "kernels/attention_softmax.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct FloatProjection {
  using F = typename Lanes::F;

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

  static void run(HeadWeights::Type type, const void* weights, int64_t inputs, int64_t outputs,
                      const float* x, int64_t x_stride, int64_t tokens, float* y,
                      int64_t y_stride) {
    const auto multiply = [&]<class Value>(Value, auto load) {
      project_values<Value>(weights, load, inputs, outputs, x, x_stride, tokens, y, y_stride);
    };
    if (type == HeadWeights::Type::float32) return multiply(float{}, Lanes::load);
    if (type == HeadWeights::Type::float16) return multiply(uint16_t{}, Lanes::load_half);
    multiply(uint16_t{}, Lanes::load_bfloat);
  }
};

}  // namespace
}  // namespace trtcoder
