// Sixteen lanes in one 512-bit register, with the dot product of bytes (VNNI).
// `portable/lanes.h` says what each function computes.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes its own intrinsics for uses of uninitialized variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace trtcoder {
namespace {

struct Avx512Lanes {
  using F = __m512;
  using I = __m512i;

  static F broadcast(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_bfloat(const uint16_t* p) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }

  static I load_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I load_signed_bytes(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I nibbles(const uint8_t* p, int shift) {
    return _mm512_and_si512(_mm512_srl_epi32(load_bytes(p), _mm_cvtsi32_si128(shift)),
                            _mm512_set1_epi32(15));
  }
  static I broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
  static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
  static F from_int(I a) { return _mm512_cvtepi32_ps(a); }
  static F as_floats(I a) { return _mm512_castsi512_ps(a); }
  static I to_int(F a) { return _mm512_cvtps_epi32(a); }
  static I magnitude_bits(F a) {
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
  }
  static F scale_by_power(F a, I n) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(n, 23)));
  }

  static float sum(F a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static int32_t sum_int(I a) { return _mm512_reduce_add_epi32(a); }
  static int32_t max_lane(I a) { return _mm512_reduce_max_epi32(a); }

  static void store_codes(int8_t* p, I a) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    const __m128i bytes = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(a), order);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static constexpr int kMaxTokens = 12;
  // Of products with float32 matrices: vectors of sums, and tokens.
  static constexpr int kFloatSums = 24, kFloatTokens = 12;
  template <int bits>
  static constexpr int kBias = 0;

  // Into the second-level cache: the first has room for fewer lines on their way from memory.
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

  static I four_columns(const int8_t* x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
  }

  template <int bits, int tokens>
  static inline __attribute__((always_inline)) void dot(const uint8_t* codes, const int8_t* x,
                                                        I (&sums)[tokens]) {
    const I low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int eighth = 0; eighth < 4; ++eighth) {
      I even, odd;
      if constexpr (bits == 4) {
        const I both = _mm512_loadu_si512(codes + eighth * 64);
        even = _mm512_and_si512(both, low);
        odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      } else {
        even = _mm512_loadu_si512(codes + eighth * 128);
        odd = _mm512_loadu_si512(codes + eighth * 128 + 64);
      }
      const int8_t* p = x + eighth * 8 * tokens;
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t)
        sums[t] = _mm512_dpbusd_epi32(sums[t], even, four_columns(p + 4 * t));
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t)
        sums[t] = _mm512_dpbusd_epi32(sums[t], odd, four_columns(p + 4 * (tokens + t)));
    }
  }
};

}  // namespace
}  // namespace trtcoder
