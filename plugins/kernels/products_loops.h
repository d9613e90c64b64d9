// `Products` over the lanes of any instruction set.
#pragma once

#include <stddef.h>

#include "kernels/exponential.h"
#include "kernels/float_loops.h"
#include "kernels/products.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct ProductLoops {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  using Floats = FloatLoops<Lanes>;

  static int group_size(int64_t tokens) {
    const int64_t groups = (tokens + Lanes::kMaxTokens - 1) / Lanes::kMaxTokens;
    return int((tokens + groups - 1) / groups);
  }

  static int32_t offset(int32_t sum, const ActivationFormat& format) {
    if (format.has_zeros) return sum;
    const int bias = format.bits == 8 ? Lanes::template kBias<8> : Lanes::template kBias<4>;
    return kZeroBits + (bias - (format.bits == 8 ? 128 : 8)) * sum;
  }

  // Quantizes `columns` (a multiple of 16) values as one block.
  static void quantize_block(const float* x, int columns, const ActivationFormat& format,
                             int8_t* codes, float* scale, int32_t* offset_out) {
    I largest = Lanes::magnitude_bits(Lanes::load(x));
    for (int k = 16; k < columns; k += 16)
      largest = Lanes::max_int(largest, Lanes::magnitude_bits(Lanes::load(x + k)));
    const int32_t bits = Lanes::max_lane(largest);
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, 4);
    // Below, its reciprocal may be infinite. What is not finite has no codes, only its scale.
    const bool codable = magnitude >= 0x1p-100f && magnitude <= 0x1.fffffep127f;
    const F inverse = Lanes::broadcast(codable ? 127.0f / magnitude : 0.0f);
    I sum = Lanes::broadcast_int(0);
    for (int k = 0; k < columns; k += 16) {
      const I q = codable ? Lanes::to_int(Lanes::mul(Lanes::load(x + k), inverse))
                          : Lanes::broadcast_int(0);
      sum = Lanes::add_int(sum, q);
      Lanes::store_codes(codes + k, q);
    }
    *scale = magnitude < 0x1p-100f ? 0.0f : magnitude / 127.0f;
    *offset_out = offset(Lanes::sum_int(sum), format);
  }

  static void quantize(const float* x, int64_t width, const ActivationFormat& format,
                       int8_t* codes, float* scales, int32_t* offsets) {
    const int block = format.block;
    const int64_t whole = width / block;
    for (int64_t b = 0; b < whole; ++b)
      quantize_block(x + b * block, block, format, codes + b * block, scales + b, offsets + b);
    if (const int64_t rest = width - whole * block) {
      float last[kMaxBlock] = {};
      __builtin_memcpy(last, x + whole * block, rest * sizeof(float));
      quantize_block(last, block, format, codes + whole * block, scales + whole, offsets + whole);
    }
  }

  // The zero points of a block's rows, less what `dot` has subtracted.
  template <int bits>
  static F zero_points(const uint8_t* zeros, int64_t block) {
    const I codes = bits == 8 ? Lanes::load_bytes(zeros + block * 16)
                              : Lanes::nibbles(zeros + block / 2 * 16, block % 2 * 4);
    return Lanes::from_int(
        Lanes::add_int(codes, Lanes::broadcast_int(-Lanes::template kBias<bits>)));
  }

  template <int bits, bool has_zeros, int tokens>
  static __attribute__((noinline)) void panel_of(const Matrix& matrix, int64_t panel,
                                                 const Activations& x, float* out,
                                                 int64_t stride) {
    const int64_t blocks = matrix.blocks();
    const int block = matrix.block;
    const uint8_t* codes = matrix.codes + panel * matrix.panel_code_bytes();
    const uint16_t* scales = matrix.scales + panel * blocks * 16;
    const uint8_t* zeros = has_zeros ? matrix.zeros + panel * matrix.panel_zero_bytes() : nullptr;
    const int8_t* columns = x.codes;
    F total[tokens];
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) total[t] = Lanes::broadcast(0.0f);
    for (int64_t b = 0; b < blocks; ++b) {
      I sums[tokens];
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t)
        sums[t] = Lanes::broadcast_int(has_zeros ? kZeroBits : x.offsets[b * tokens + t]);
      for (int k = 0; k < block; k += 32) {
        for (int line = 0; line < 8 * bits; line += 8) Lanes::prefetch(codes + kAhead + line * 8);
        Lanes::template dot<bits, tokens>(codes, columns, sums);
        codes += 64 * bits;
        columns += 32 * tokens;
      }
      const F scale = Lanes::load_half(scales + b * 16);
      const F base = Lanes::mul(scale, Lanes::broadcast(-kZero));
      F zero;
      if constexpr (has_zeros) zero = zero_points<bits>(zeros, b);
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t) {
        F products = Lanes::as_floats(sums[t]);
        if constexpr (has_zeros) {
          const F sum = Lanes::from_int(Lanes::broadcast_int(x.offsets[b * tokens + t]));
          products = Lanes::fnma(zero, sum, products);
        }
        const F scaled = Lanes::fma(products, scale, base);
        total[t] = Lanes::fma(scaled, Lanes::broadcast(x.scales[b * tokens + t]), total[t]);
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) Lanes::store(out + t * stride, total[t]);
  }

  // Finds the product of the group's size.
  template <int bits, bool has_zeros, int tokens = Lanes::kMaxTokens>
  static void panel_for(const Matrix& matrix, int64_t panel, const Activations& x, float* out,
                        int64_t stride) {
    if constexpr (tokens > 0) {
      if (x.tokens == tokens)
        panel_of<bits, has_zeros, tokens>(matrix, panel, x, out, stride);
      else
        panel_for<bits, has_zeros, tokens - 1>(matrix, panel, x, out, stride);
    }
  }

  static void panel(const Matrix& matrix, int64_t panel, const Activations& x, float* out,
                    int64_t stride) {
    if (matrix.bits == 4) {
      if (matrix.zeros) return panel_for<4, true>(matrix, panel, x, out, stride);
      return panel_for<4, false>(matrix, panel, x, out, stride);
    }
    if (matrix.zeros) return panel_for<8, true>(matrix, panel, x, out, stride);
    panel_for<8, false>(matrix, panel, x, out, stride);
  }

  static void panels(const Matrix& matrix, int64_t first, int count, const Activations& x,
                     float* out, int64_t stride) {
    if (matrix.is_float()) return Floats::panels(matrix, first, count, x, out, stride);
    for (int p = 0; p < count; ++p) panel(matrix, first + p, x, out + p * 16, stride);
  }

  static void gate(const float* gate_up, int columns, float* out) {
    const F one = Lanes::broadcast(1.0f), zero = Lanes::broadcast(0.0f);
    for (int k = 0; k < columns; k += 16) {
      const F g = Lanes::load(gate_up + 2 * k);
      const F sigmoid_of = Lanes::add(one, exponential<Lanes>(Lanes::sub(zero, g)));
      const F silu = Lanes::div(g, sigmoid_of);
      Lanes::store(out + k, Lanes::mul(silu, Lanes::load(gate_up + 2 * k + 16)));
    }
  }

  static void quantize_gated(const float* gate_up, int columns, const ActivationFormat& format,
                             int8_t* codes, float* scale, int32_t* offset_out) {
    float products[kMaxBlock] = {};
    gate(gate_up, columns, products);
    quantize_block(products, columns, format, codes, scale, offset_out);
  }

  // Sixteen values, zeros behind the last of `count`.
  static F load_some(const float* x, int64_t count) {
    if (count >= 16) return Lanes::load(x);
    float padded[16] = {};
    __builtin_memcpy(padded, x, count * sizeof(float));
    return Lanes::load(padded);
  }
  static F load_some_bfloat(const uint16_t* x, int64_t count) {
    if (count >= 16) return Lanes::load_bfloat(x);
    uint16_t padded[16] = {};
    __builtin_memcpy(padded, x, count * sizeof(uint16_t));
    return Lanes::load_bfloat(padded);
  }

  template <bool is_bfloat, int experts, int tokens>
  static void router_of(const RouterWeights& weights, int64_t first, const float* x, float* out,
                        int64_t stride) {
    F sums[experts][tokens];
    for (int e = 0; e < experts; ++e)
      for (int t = 0; t < tokens; ++t) sums[e][t] = Lanes::broadcast(0.0f);
    for (int64_t k = 0; k < weights.width; k += 16) {
      const int64_t left = weights.width - k;
      F values[tokens];
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) values[t] = load_some(x + t * weights.width + k, left);
#pragma GCC unroll 4
      for (int e = 0; e < experts; ++e) {
        const int64_t at = (first + e) * weights.width + k;
        F row;
        if constexpr (is_bfloat)
          row = load_some_bfloat(static_cast<const uint16_t*>(weights.rows) + at, left);
        else
          row = load_some(static_cast<const float*>(weights.rows) + at, left);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; ++t) sums[e][t] = Lanes::fma(row, values[t], sums[e][t]);
      }
    }
    for (int e = 0; e < experts; ++e)
      for (int t = 0; t < tokens; ++t) out[t * stride + e] = Lanes::sum(sums[e][t]);
  }

  template <bool is_bfloat>
  static void router_for(const RouterWeights& weights, int64_t first, int experts, const float* x,
                         int tokens, float* out, int64_t stride) {
    if (experts == 4 && tokens == 4)
      return router_of<is_bfloat, 4, 4>(weights, first, x, out, stride);
    for (int t = 0; t < tokens; ++t) {
      const float* row = x + t * weights.width;
      float* to = out + t * stride;
      if (experts == 4) {
        router_of<is_bfloat, 4, 1>(weights, first, row, to, stride);
        continue;
      }
      for (int e = 0; e < experts; ++e)
        router_of<is_bfloat, 1, 1>(weights, first + e, row, to + e, stride);
    }
  }

  static void router(const RouterWeights& weights, int64_t first, int experts, const float* x,
                     int tokens, float* out, int64_t stride) {
    if (weights.is_bfloat)
      router_for<true>(weights, first, experts, x, tokens, out, stride);
    else
      router_for<false>(weights, first, experts, x, tokens, out, stride);
  }

  static void softmax(const float* x, int64_t count, float* out) {
    float largest = x[0];
    for (int64_t i = 1; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
    F sum = Lanes::broadcast(0.0f);
    for (int64_t i = 0; i < count; i += 16) {
      float part[16];
      for (int j = 0; j < 16; ++j) part[j] = i + j < count ? x[i + j] - largest : -200.0f;
      F e = exponential<Lanes>(Lanes::load(part));
      Lanes::store(part, e);
      for (int j = 0; j < 16; ++j) {
        if (i + j < count) out[i + j] = part[j];
        else part[j] = 0.0f;
      }
      sum = Lanes::add(sum, Lanes::load(part));
    }
    const float total = Lanes::sum(sum);
    for (int64_t i = 0; i < count; ++i) out[i] /= total;
  }

  static void add_rows(const float* products, int tokens, int width, const float* factors,
                       const int64_t* rows, float* sums, int64_t stride) {
    for (int t = 0; t < tokens; ++t, products += width) {
      float* sum = sums + rows[t] * stride;
      const F factor = Lanes::broadcast(factors[t]);
      for (int i = 0; i < width; i += 16)
        Lanes::store(sum + i, Lanes::fma(Lanes::load(products + i), factor, Lanes::load(sum + i)));
    }
  }

  // How far ahead of the products codes are fetched; memory answers after a few hundred cycles.
  static constexpr int kAhead = 4096;

  // One panel's codes stay in the nearest cache while all groups of tokens pass.
  static constexpr int kPanelsAtOnce = 1;

  static constexpr Products table{.group_size = group_size,
                                  .float_group_size = Floats::group_size,
                                  .tiled_from = kMaxGroup + 1,
                                  .panels_at_once = kPanelsAtOnce,
                                  .quantize = quantize,
                                  .panels = panels,
                                  .quantize_gated = quantize_gated,
                                  .gate = gate,
                                  .router = router,
                                  .softmax = softmax,
                                  .add_rows = add_rows};
};

}  // namespace
}  // namespace trtcoder
