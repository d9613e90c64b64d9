// Sixteen lanes in two 256-bit registers.
// `portable/lanes.h` says what each function computes.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace trtcoder {
namespace {

struct Avx2Lanes {
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };

  static F broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static __m128i eight(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static F load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(eight(p)), _mm256_cvtph_ps(eight(p + 8))};
  }
  static __m256 widen_bfloat(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static F load_bfloat(const uint16_t* p) {
    return {widen_bfloat(eight(p)), widen_bfloat(eight(p + 8))};
  }
  static void store(float* p, F a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }

  static F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static F fnma(F a, F b, F c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
  }
  static F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }

  static I load_bytes(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))};
  }
  static I load_signed_bytes(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))};
  }
  static I nibbles(const uint8_t* p, int shift) {
    const I bytes = load_bytes(p);
    const __m128i count = _mm_cvtsi32_si128(shift);
    const __m256i low = _mm256_set1_epi32(15);
    return {_mm256_and_si256(_mm256_srl_epi32(bytes.lo, count), low),
            _mm256_and_si256(_mm256_srl_epi32(bytes.hi, count), low)};
  }
  static I broadcast_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I add_int(I a, I b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
  }
  static I max_int(I a, I b) {
    return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
  }
  static F from_int(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
  static F as_floats(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
  static I to_int(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  static I magnitude_bits(F a) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(a.lo), mask),
            _mm256_and_si256(_mm256_castps_si256(a.hi), mask)};
  }
  static __m256 scale_by_power(__m256 a, __m256i n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(n, 23)));
  }
  static F scale_by_power(F a, I n) {
    return {scale_by_power(a.lo, n.lo), scale_by_power(a.hi, n.hi)};
  }

  static float sum(F a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static int32_t sum_int(I a) {
    const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
  }
  static int32_t max_lane(I a) {
    const __m256i eight = _mm256_max_epi32(a.lo, a.hi);
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
  }

  static void store_codes(int8_t* p, I a) {
    // The packs work within halves of 128 bits: 0-3 8-11 | 4-7 12-15, and again.
    const __m256i words = _mm256_packs_epi32(a.lo, a.hi);
    const __m256i bytes = _mm256_packs_epi16(words, words);
    const __m128i pairs =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(pairs, order));
  }

  static constexpr int kMaxTokens = 8;
  // Of products with float32 matrices: vectors of sums, and tokens.
  static constexpr int kFloatSums = 6, kFloatTokens = 6;
  // Products of unsigned and signed bytes are added in pairs of 16 bits: too few for a code of
  // 8 bits, which is therefore made signed.
  template <int bits>
  static constexpr int kBias = bits == 8 ? 128 : 0;

  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  static __m256i load_codes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }

  // Assembly: from intrinsics GCC 12 makes all products before it adds the first, and runs out of
  // registers.
  //
  // Products of codes of 4 bits and the four columns at `x`, each two added up in 16 bits.
  static inline __attribute__((always_inline)) __m256i words_of(__m256i codes, const int8_t* x) {
    __m256i sum;
    asm("vpbroadcastd %2, %0\n\tvpmaddubsw %0, %1, %0"
        : "=&x"(sum)
        : "x"(codes), "m"(*reinterpret_cast<const char(*)[4]>(x)));
    return sum;
  }
  // Adds such products.
  static inline __attribute__((always_inline)) void add_words(__m256i& sum, __m256i codes,
                                                              const int8_t* x) {
    __m256i four;
    asm("vpbroadcastd %3, %1\n\tvpmaddubsw %1, %2, %1\n\tvpaddw %1, %0, %0"
        : "+x"(sum), "=&x"(four)
        : "x"(codes), "m"(*reinterpret_cast<const char(*)[4]>(x)));
  }
  // Adds to 32 bits the products of signed codes, whose magnitudes are given too.
  static inline __attribute__((always_inline)) void add_signed(__m256i& sum, __m256i codes,
                                                               __m256i magnitudes, __m256i ones,
                                                               const int8_t* x) {
    __m256i four;
    asm("vpbroadcastd %5, %1\n\tvpsignb %2, %1, %1\n\tvpmaddubsw %1, %3, %1\n\t"
        "vpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
        : "+x"(sum), "=&x"(four)
        : "x"(codes), "x"(magnitudes), "x"(ones), "m"(*reinterpret_cast<const char(*)[4]>(x)));
  }

  // Eight rows. With codes of 4 bits, 16 products of at most 15 * 127 fit into 16 bits.
  template <int bits, int tokens>
  static inline __attribute__((always_inline)) void dot_eight(const uint8_t* codes,
                                                              const int8_t* x,
                                                              __m256i (&sums)[tokens]) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (bits == 4) {
      const __m256i low = _mm256_set1_epi8(15);
      __m256i words[tokens];
#pragma GCC unroll 4
      for (int eighth = 0; eighth < 4; ++eighth, x += 8 * tokens) {
        const __m256i both = load_codes(codes + eighth * 64);
        const __m256i even = _mm256_and_si256(both, low);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) {
          if (eighth == 0) words[t] = words_of(even, x + 4 * t);
          else add_words(words[t], even, x + 4 * t);
          add_words(words[t], odd, x + 4 * (tokens + t));
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t)
        sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(words[t], ones));
    } else {
      const __m256i middle = _mm256_set1_epi8(-128);
#pragma GCC unroll 8
      for (int quarter = 0; quarter < 8; ++quarter, x += 4 * tokens) {
        const __m256i weight = _mm256_xor_si256(load_codes(codes + quarter * 64), middle);
        const __m256i magnitude = _mm256_abs_epi8(weight);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) add_signed(sums[t], weight, magnitude, ones, x + 4 * t);
      }
    }
  }

  // Twice the eight rows of `Lanes`.
  template <class Lanes, int bits, int tokens>
  static inline __attribute__((always_inline)) void dot_halves(const uint8_t* codes,
                                                               const int8_t* x,
                                                               I (&sums)[tokens]) {
    __m256i part[tokens];
    for (int t = 0; t < tokens; ++t) part[t] = sums[t].lo;
    Lanes::template dot_eight<bits, tokens>(codes, x, part);
    for (int t = 0; t < tokens; ++t) sums[t].lo = part[t], part[t] = sums[t].hi;
    Lanes::template dot_eight<bits, tokens>(codes + 32, x, part);
    for (int t = 0; t < tokens; ++t) sums[t].hi = part[t];
  }

  template <int bits, int tokens>
  static inline __attribute__((always_inline)) void dot(const uint8_t* codes, const int8_t* x,
                                                        I (&sums)[tokens]) {
    dot_halves<Avx2Lanes, bits, tokens>(codes, x, sums);
  }
};

}  // namespace
}  // namespace trtcoder
