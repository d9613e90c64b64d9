// Sixteen lanes in plain C++: what every instruction set's lanes must compute, bit for bit.
//
// A lanes type is the vector of one instruction set: F is sixteen float32, I sixteen int32. Kernels
// are templates over it. It lives in an unnamed namespace, so that what is compiled with one set's
// flags is never linked into another's code.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"
#include "kernels/portable/fused.h"

namespace trtcoder {
namespace {

struct PortableLanes {
  struct F {
    float lane[16];
  };
  struct I {
    int32_t lane[16];
  };

  template <class Op>
  static F each(Op op) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = op(i);
    return r;
  }
  template <class Op>
  static I each_int(Op op) {
    I r;
    for (int i = 0; i < 16; ++i) r.lane[i] = op(i);
    return r;
  }

  static F broadcast(float x) {
    return each([&](int) { return x; });
  }
  static F load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  // float16 and bfloat16 stand as uint16.
  static F load_half(const uint16_t* p) {
    return each([&](int i) { return half_to_float(p[i]); });
  }
  static F load_bfloat(const uint16_t* p) {
    return each([&](int i) { return std::bit_cast<float>(uint32_t(p[i]) << 16); });
  }
  static void store(float* p, F a) { std::memcpy(p, a.lane, sizeof a.lane); }
  static I load_signed_bytes(const int8_t* p) {
    return each_int([&](int i) { return p[i]; });
  }

  static F add(F a, F b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F div(F a, F b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  // a * b + c and c - a * b, rounded once.
  static F fma(F a, F b, F c) {
    return each([&](int i) { return fused(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static F fnma(F a, F b, F c) {
    return each([&](int i) { return fused(-a.lane[i], b.lane[i], c.lane[i]); });
  }
  // b where either is NaN.
  static F max(F a, F b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F min(F a, F b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }

  // Sixteen bytes, and their four bits from `shift` on.
  static I load_bytes(const uint8_t* p) {
    return each_int([&](int i) { return int32_t(p[i]); });
  }
  static I nibbles(const uint8_t* p, int shift) {
    return each_int([&](int i) { return (p[i] >> shift) & 15; });
  }
  static I broadcast_int(int32_t x) {
    return each_int([&](int) { return x; });
  }
  static I add_int(I a, I b) {
    return each_int([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static I max_int(I a, I b) {
    return each_int([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F from_int(I a) {
    return each([&](int i) { return static_cast<float>(a.lane[i]); });
  }
  // The floats that have these bits.
  static F as_floats(I a) { return std::bit_cast<F>(a); }
  // To the nearest, ties to even; lanes beyond int32 are not defined.
  static I to_int(F a) {
    return each_int([&](int i) { return static_cast<int32_t>(std::nearbyint(a.lane[i])); });
  }
  // The bits of |a|: as integers they are in the order of the magnitudes, NaN above infinity.
  static I magnitude_bits(F a) {
    return each_int([&](int i) { return std::bit_cast<int32_t>(a.lane[i]) & 0x7fffffff; });
  }
  // a * 2^n for n in [-126, 127] where the result is a normal number.
  static F scale_by_power(F a, I n) {
    return each([&](int i) {
      return std::bit_cast<float>(std::bit_cast<uint32_t>(a.lane[i]) + (uint32_t(n.lane[i]) << 23));
    });
  }

  // Lane i with lane i + 8, then + 4, + 2, + 1: the order is part of the result.
  static float sum(F a) {
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
    return a.lane[0];
  }
  static int32_t sum_int(I a) {
    int32_t total = 0;
    for (int32_t x : a.lane) total += x;
    return total;
  }
  static int32_t max_lane(I a) {
    int32_t found = a.lane[0];
    for (int32_t x : a.lane) found = x > found ? x : found;
    return found;
  }

  // Sixteen values of [-128, 127] as bytes, each eight in the order 0 2 4 6 1 3 5 7.
  static void store_codes(int8_t* p, I a) {
    static constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.lane[(i & 8) + kOrder[i & 7]]);
  }

  // Matrix products: see `kernels/matrix.h` for the layout.
  static constexpr int kMaxTokens = 4;
  // Of products with float32 matrices: vectors of sums, and tokens.
  static constexpr int kFloatSums = 4, kFloatTokens = 4;
  // `dot` multiplies with code - kBias.
  template <int bits>
  static constexpr int kBias = 0;

  static void prefetch(const void*) {}

  // Adds the products of 32 columns: 16 rows times `tokens` tokens.
  template <int bits, int tokens>
  static void dot(const uint8_t* codes, const int8_t* x, I (&sums)[tokens]) {
    for (int eighth = 0; eighth < 4; ++eighth)
      for (int half = 0; half < 2; ++half)
        for (int t = 0; t < tokens; ++t)
          for (int row = 0; row < 16; ++row)
            for (int j = 0; j < 4; ++j) {
              const int code =
                  bits == 8 ? codes[((eighth * 2 + half) * 16 + row) * 4 + j]
                            : (codes[(eighth * 16 + row) * 4 + j] >> (4 * half)) & 15;
              sums[t].lane[row] += code * x[((eighth * 2 + half) * tokens + t) * 4 + j];
            }
  }
};

}  // namespace
}  // namespace trtcoder
