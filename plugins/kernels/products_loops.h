// `Products` over the lanes of any instruction set.
#pragma once

#include "kernels/products.h"

namespace trtcoder {
namespace {

template <class Lanes>
struct ProductLoops {
  using F = typename Lanes::F;
  using I = typename Lanes::I;

  static int group_size(int64_t tokens) {
    constexpr int kSizes[] = {12, 8, 4, 2};
    for (int size : kSizes)
      if (size <= Lanes::kMaxTokens && size <= tokens) return size;
    return 1;
  }

  static int32_t offset(int32_t sum, const ActivationFormat& format) {
    if (format.has_zeros) return sum;
    const int bias = format.bits == 8 ? Lanes::template kBias<8> : Lanes::template kBias<4>;
    return (bias - (format.bits == 8 ? 128 : 8)) * sum;
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
      float last[256] = {};
      __builtin_memcpy(last, x + whole * block, rest * sizeof(float));
      quantize_block(last, block, format, codes + whole * block, scales + whole, offsets + whole);
    }
  }

  // The zero points of a block's rows, less what `dot` has subtracted.
  template <int bits>
  static F zero_points(const uint8_t* zeros, int64_t block) {
    float found[16];
    for (int row = 0; row < 16; ++row) {
      const int zero = bits == 8 ? zeros[block * 16 + row]
                                 : (zeros[block / 2 * 16 + row] >> (block % 2 * 4)) & 15;
      found[row] = static_cast<float>(zero - Lanes::template kBias<bits>);
    }
    return Lanes::load(found);
  }

  template <int bits, bool has_zeros, int tokens>
  static void panel_of(const Matrix& matrix, int64_t panel, const Activations& x, float* out,
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
        sums[t] = Lanes::broadcast_int(has_zeros ? 0 : x.offsets[b * tokens + t]);
      for (int k = 0; k < block; k += 32) {
        for (int line = 0; line < 8 * bits; line += 8) Lanes::prefetch(codes + kAhead + line * 8);
        Lanes::template dot<bits, tokens>(codes, columns, sums);
        codes += 64 * bits;
        columns += 32 * tokens;
      }
      const F scale = Lanes::load_half(scales + b * 16);
      F zero;
      if constexpr (has_zeros) zero = zero_points<bits>(zeros, b);
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t) {
        F products = Lanes::from_int(sums[t]);
        if constexpr (has_zeros) {
          const F sum = Lanes::from_int(Lanes::broadcast_int(x.offsets[b * tokens + t]));
          products = Lanes::fnma(zero, sum, products);
        }
        const F both = Lanes::mul(scale, Lanes::broadcast(x.scales[b * tokens + t]));
        total[t] = Lanes::fma(products, both, total[t]);
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) Lanes::store(out + t * stride, total[t]);
  }

  template <int bits, bool has_zeros>
  static void panel_for(const Matrix& matrix, int64_t panel, const Activations& x, float* out,
                        int64_t stride) {
    switch (x.tokens) {
      case 1: return panel_of<bits, has_zeros, 1>(matrix, panel, x, out, stride);
      case 2: return panel_of<bits, has_zeros, 2>(matrix, panel, x, out, stride);
      case 4: return panel_of<bits, has_zeros, 4>(matrix, panel, x, out, stride);
    }
    if constexpr (Lanes::kMaxTokens >= 12) {
      if (x.tokens == 8) return panel_of<bits, has_zeros, 8>(matrix, panel, x, out, stride);
      panel_of<bits, has_zeros, 12>(matrix, panel, x, out, stride);
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

  // How far ahead of the products codes are fetched; memory answers after a few hundred cycles.
  static constexpr int kAhead = 2048;

  static constexpr Products table{group_size, quantize, panel};
};

}  // namespace
}  // namespace trtcoder
