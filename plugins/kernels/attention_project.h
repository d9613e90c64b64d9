// Products with the matrices of heads that are not quantized.
#pragma once

#include <cstring>

#include "kernels/attention_softmax.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct FloatProjection {
  using F = typename Lanes::F;

  // How far ahead of the products weights are fetched; memory answers after a few hundred cycles.
  static constexpr int64_t kAhead = 8192;

  template <int tokens, int vectors, class Value, class Load>
  static TRTCODER_INLINE void project_columns(int64_t inputs, int64_t outputs,
                                              const Value* values, Load load, const float* x,
                                              int64_t x_stride, float* y, int64_t y_stride) {
    constexpr int line = 64 / int(sizeof(Value));
    const int64_t ahead = (kAhead / int64_t(sizeof(Value)) + outputs - 1) / outputs * outputs;
    F sum[tokens][vectors];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) sum[t][v] = Lanes::broadcast(0.0f);
    for (int64_t k = 0; k < inputs; ++k, values += outputs) {
#pragma GCC unroll 16
      for (int i = 0; i < vectors * 16; i += line) Lanes::prefetch(values + ahead + i);
      if constexpr (tokens == 1) {
        const F one = Lanes::broadcast(x[k]);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v)
          sum[0][v] = Lanes::fma(one, load(values + v * 16), sum[0][v]);
        continue;
      }
      F w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) w[v] = load(values + v * 16);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) {
        const F one = Lanes::broadcast(x[t * x_stride + k]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[t][v] = Lanes::fma(one, w[v], sum[t][v]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) Lanes::store(y + t * y_stride + v * 16, sum[t][v]);
  }

  // Columns of all tokens: what is read of the weights stays in the nearest cache meanwhile.
  template <int vectors, class Value, class Load>
  static void project_tokens(const Value* values, Load load, int64_t inputs, int64_t outputs,
                             const float* x, int64_t x_stride, int64_t tokens, float* y,
                             int64_t y_stride) {
    constexpr int most = Lanes::kMaxVectors >= 4 ? 6 : 4;
    int64_t t = 0;
    const auto some = [&]<int count>() {
      for (; t + count <= tokens; t += count)
        project_columns<count, vectors>(inputs, outputs, values, load, x + t * x_stride, x_stride,
                                        y + t * y_stride, y_stride);
    };
    if constexpr (vectors <= 4) {
      some.template operator()<most>();
      if constexpr (most > 4) some.template operator()<4>();
      some.template operator()<2>();
    }
    some.template operator()<1>();
  }

  template <class Value, class Load>
  static void project_values(const void* weights, Load load, int64_t inputs, int64_t outputs,
                             const float* x, int64_t x_stride, int64_t tokens, float* y,
                             int64_t y_stride) {
    const auto* values = static_cast<const Value*>(weights);
    int64_t n = 0;
    const auto some = [&]<int vectors>() {
      for (; n + vectors * 16 <= outputs; n += vectors * 16)
        project_tokens<vectors>(values + n, load, inputs, outputs, x, x_stride, tokens, y + n,
                                y_stride);
    };
    // Long pieces of rows: what one token takes as fast as memory gives it.
    if constexpr (Lanes::kMaxVectors >= 4)
      if (tokens == 1) some.template operator()<16>(), some.template operator()<8>();
    if (Lanes::kMaxVectors >= 4 || tokens == 1) some.template operator()<4>();
    some.template operator()<1>();
    if (n == outputs) return;
    // The last columns are fewer than a vector, and the memory may end behind them.
    const int64_t bytes = (outputs - n) * int64_t(sizeof(Value));
    project_tokens<1>(
        values + n,
        [=](const Value* p) TRTCODER_INLINE_LAMBDA {
          Value last[16] = {};
          std::memcpy(last, p, bytes);
          return load(last);
        },
        inputs, outputs, x, x_stride, tokens, y + n, y_stride);
  }

  static void run(HeadWeights::Type type, const void* weights, int64_t inputs, int64_t outputs,
                      const float* x, int64_t x_stride, int64_t tokens, float* y,
                      int64_t y_stride) {
    const auto multiply = [&]<class Value>(Value, auto load) {
      project_values<Value>(weights, load, inputs, outputs, x, x_stride, tokens, y, y_stride);
    };
    // Functions, given as pointers, would be called for each vector.
    const auto whole = [](const float* p) TRTCODER_INLINE_LAMBDA { return Lanes::load(p); };
    const auto half = [](const uint16_t* p) TRTCODER_INLINE_LAMBDA { return Lanes::load_half(p); };
    const auto brain = [](const uint16_t* p) TRTCODER_INLINE_LAMBDA {
      return Lanes::load_bfloat(p);
    };
    if (type == HeadWeights::Type::float32) return multiply(float{}, whole);
    if (type == HeadWeights::Type::float16) return multiply(uint16_t{}, half);
    multiply(uint16_t{}, brain);
  }
};

}  // namespace
}  // namespace trtcoder
