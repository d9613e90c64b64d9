// What attention asks of the lanes of AVX-512 beside those of `lanes.h`.
#pragma once

#include "kernels/attention_softmax.h"
#include "kernels/x86/avx512/lanes.h"

namespace trtcoder {
namespace {

// `portable/attention.cpp` says what each function computes.
struct Avx512AttentionLanes : Avx512Lanes {
  static constexpr int kMaxVectors = 4;
  template <int vectors>
  static constexpr int kScoreRows = 16 / vectors;
  template <int vectors>
  static constexpr int kMixColumns = 16 / vectors;
  template <int vectors>
  static constexpr int kIntMixColumns = 16 / vectors;

  static I load_int(const void* p) { return _mm512_loadu_si512(p); }
  static void store_int(void* p, I a) { _mm512_storeu_si512(p, a); }
  static I pair(I low, I high) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
  }
  static I broadcast_word(const void* p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
  }
  // With the intrinsic GCC 12 copies every sum to another register and back.
  static I dot_pairs(I sum, I a, I b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  static I thirty_two_wide(const int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static TRTCODER_INLINE void widen_bytes(const int8_t* p, int16_t* out) {
    store_int(out, thirty_two_wide(p));
  }
  static TRTCODER_INLINE void pair_bytes(const int8_t* low, const int8_t* high, int32_t* out) {
    const I a = thirty_two_wide(low), b = thirty_two_wide(high);
    const I first = _mm512_unpacklo_epi16(a, b), second = _mm512_unpackhi_epi16(a, b);
    // Unpacking works within quarters: 0-3 8-11 16-19 24-27, and what is between.
    const I start = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const I end = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    store_int(out, _mm512_permutex2var_epi64(first, start, second));
    store_int(out + 16, _mm512_permutex2var_epi64(first, end, second));
  }
  static F where_less(F a, F b, F x, F y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }

  // Pairs of words, then of pairs, of fours and of eights are exchanged between rows.
  static void transpose16(const float* rows, int64_t stride, float* out, int64_t out_stride) {
    F a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = load(rows + i * stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    const auto pair = [](F x, F y, bool high) {
      const __m512d p = _mm512_castps_pd(x), q = _mm512_castps_pd(y);
      return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(p, q) : _mm512_unpacklo_pd(p, q));
    };
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = pair(b[i], b[i + 2], false);
      a[i + 1] = pair(b[i], b[i + 2], true);
      a[i + 2] = pair(b[i + 1], b[i + 3], false);
      a[i + 3] = pair(b[i + 1], b[i + 3], true);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      b[j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
      b[4 + j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
      b[8 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
      b[12 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      store(out + j * out_stride, _mm512_shuffle_f32x4(b[j], b[8 + j], 0x88));
      store(out + (j + 4) * out_stride, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0x88));
      store(out + (j + 8) * out_stride, _mm512_shuffle_f32x4(b[j], b[8 + j], 0xdd));
      store(out + (j + 12) * out_stride, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0xdd));
    }
  }
};

}  // namespace
}  // namespace trtcoder
