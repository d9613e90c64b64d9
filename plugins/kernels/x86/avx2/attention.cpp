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
  static I dot_pairs(I sum, I a, I b) {
    return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(a.lo, b.lo)),
            _mm256_add_epi32(sum.hi, _mm256_madd_epi16(a.hi, b.hi))};
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

  static void transpose8(const uint32_t* rows, int64_t columns, uint32_t* out,
                         int64_t out_stride) {
    const auto row = [&](int i) {
      return _mm256_loadu_ps(reinterpret_cast<const float*>(rows + i * columns));
    };
    __m256 pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
      const __m256 a = row(i), b = row(i + 1);
      pairs[i] = _mm256_unpacklo_ps(a, b);
      pairs[i + 1] = _mm256_unpackhi_ps(a, b);
    }
    for (int i = 0; i < 8; i += 4)
      for (int half = 0; half < 2; ++half) {
        const __m256d a = _mm256_castps_pd(pairs[i + half]);
        const __m256d b = _mm256_castps_pd(pairs[i + 2 + half]);
        fours[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        fours[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
      }
    for (int j = 0; j < 4; ++j) {
      const __m256 low = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20);
      const __m256 high = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31);
      _mm256_storeu_ps(reinterpret_cast<float*>(out + j * out_stride), low);
      _mm256_storeu_ps(reinterpret_cast<float*>(out + (j + 4) * out_stride), high);
    }
  }
  static void transpose16(const uint32_t* rows, int64_t columns, uint32_t* out,
                          int64_t out_stride) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8)
      for (int i = 0; i < 16; i += 8)
        transpose8(rows + i * columns + j, columns, out + j * out_stride + i, out_stride);
    for (; j < columns; ++j)
      for (int i = 0; i < 16; ++i) out[j * out_stride + i] = rows[i * columns + j];
  }
};

}  // namespace

const AttentionKernels avx2_attention = AttentionLoops<Avx2AttentionLanes>::table;

}  // namespace trtcoder
