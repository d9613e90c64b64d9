#include "kernels/attention_loops.h"

#include "kernels/x86/avx2/lanes.h"

namespace trtcoder {
namespace {

// `portable/attention.cpp` says what each function computes.
struct Avx2AttentionLanes : Avx2Lanes {
  static constexpr int kMaxVectors = 1;
  template <int vectors>
  static constexpr int kScoreRows = 6;
  template <int vectors>
  static constexpr int kMixColumns = 6;
  template <int vectors>
  static constexpr int kIntMixColumns = 4;

  static __m256i eight_ints(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static I load_int(const void* p) {
    return {eight_ints(p), eight_ints(static_cast<const char*>(p) + 32)};
  }
  static void store_int(void* p, I a) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, a.hi);
  }
  static I pair(I low, I high) {
    return {_mm256_blend_epi16(low.lo, _mm256_slli_epi32(high.lo, 16), 0xaa),
            _mm256_blend_epi16(low.hi, _mm256_slli_epi32(high.hi, 16), 0xaa)};
  }
  static I broadcast_word(const void* p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return broadcast_int(word);
  }
  // GCC 12 makes all products of a step before it adds the first, and runs out of registers.
  static TRTCODER_INLINE __m256i dot_eight_pairs(__m256i sum, __m256i a, __m256i b) {
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
    return sum;
  }
  static TRTCODER_INLINE I dot_pairs(I sum, I a, I b) {
    return {dot_eight_pairs(sum.lo, a.lo, b.lo), dot_eight_pairs(sum.hi, a.hi, b.hi)};
  }
  static __m256i sixteen_wide(const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_eight(void* p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
  static TRTCODER_INLINE void widen_bytes(const int8_t* p, int16_t* out) {
    store_eight(out, sixteen_wide(p));
    store_eight(out + 16, sixteen_wide(p + 16));
  }
  static TRTCODER_INLINE void pair_bytes(const int8_t* low, const int8_t* high, int32_t* out) {
    for (int i = 0; i < 32; i += 16) {
      const __m256i a = sixteen_wide(low + i), b = sixteen_wide(high + i);
      const __m256i first = _mm256_unpacklo_epi16(a, b), second = _mm256_unpackhi_epi16(a, b);
      store_eight(out + i, _mm256_permute2x128_si256(first, second, 0x20));
      store_eight(out + i + 8, _mm256_permute2x128_si256(first, second, 0x31));
    }
  }
  static F where_less(F a, F b, F x, F y) {
    return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
  }

  static TRTCODER_INLINE void transpose8(const float* rows, int64_t stride, float* out,
                                         int64_t out_stride) {
    __m256 pairs[8], fours[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      const __m256 a = _mm256_loadu_ps(rows + i * stride);
      const __m256 b = _mm256_loadu_ps(rows + (i + 1) * stride);
      pairs[i] = _mm256_unpacklo_ps(a, b);
      pairs[i + 1] = _mm256_unpackhi_ps(a, b);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m256d a = _mm256_castps_pd(pairs[i + half]);
        const __m256d b = _mm256_castps_pd(pairs[i + 2 + half]);
        fours[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        fours[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
      }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm256_storeu_ps(out + j * out_stride,
                       _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20));
      _mm256_storeu_ps(out + (j + 4) * out_stride,
                       _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31));
    }
  }
  static void transpose16(const float* rows, int64_t stride, float* out, int64_t out_stride) {
    for (int i = 0; i < 16; i += 8)
      for (int j = 0; j < 16; j += 8)
        transpose8(rows + i * stride + j, stride, out + j * out_stride + i, out_stride);
  }
};

}  // namespace

const AttentionKernels avx2_attention = AttentionLoops<Avx2AttentionLanes>::table;

}  // namespace trtcoder
