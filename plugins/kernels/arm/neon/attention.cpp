#include "kernels/attention_loops.h"

#include "kernels/arm/neon/lanes.h"

namespace trtcoder {
namespace {

// `portable/attention.cpp` says what each function computes.
struct NeonAttentionLanes : NeonLanes {
  static constexpr int kMaxVectors = 1;
  template <int vectors>
  static constexpr int kScoreRows = 4;
  template <int vectors>
  static constexpr int kMixColumns = 4;
  template <int vectors>
  static constexpr int kIntMixColumns = 4;

  static I load_int(const void* p) {
    const auto* from = static_cast<const int32_t*>(p);
    return each_int([&](int i) { return vld1q_s32(from + 4 * i); });
  }
  static void store_int(void* p, I a) {
    for (int i = 0; i < 4; ++i) vst1q_s32(static_cast<int32_t*>(p) + 4 * i, a.part[i]);
  }
  static I pair(I low, I high) {
    return each_int([&](int i) { return vsliq_n_s32(low.part[i], high.part[i], 16); });
  }
  static I broadcast_word(const void* p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return broadcast_int(word);
  }
  static I dot_pairs(I sum, I a, I b) {
    return each_int([&](int i) {
      const int16x8_t x = vreinterpretq_s16_s32(a.part[i]), y = vreinterpretq_s16_s32(b.part[i]);
      const int32x4_t first = vmull_s16(vget_low_s16(x), vget_low_s16(y));
      return vaddq_s32(sum.part[i], vpaddq_s32(first, vmull_high_s16(x, y)));
    });
  }
  static TRTCODER_INLINE void widen_bytes(const int8_t* p, int16_t* out) {
    for (int i = 0; i < 32; i += 8) vst1q_s16(out + i, vmovl_s8(vld1_s8(p + i)));
  }
  static TRTCODER_INLINE void pair_bytes(const int8_t* low, const int8_t* high, int32_t* out) {
    for (int i = 0; i < 32; i += 8) {
      const int16x8_t a = vmovl_s8(vld1_s8(low + i)), b = vmovl_s8(vld1_s8(high + i));
      vst1q_s32(out + i, vreinterpretq_s32_s16(vzip1q_s16(a, b)));
      vst1q_s32(out + i + 4, vreinterpretq_s32_s16(vzip2q_s16(a, b)));
    }
  }
  static F where_less(F a, F b, F x, F y) {
    return each([&](int i) {
      return vbslq_f32(vcltq_f32(a.part[i], b.part[i]), x.part[i], y.part[i]);
    });
  }
  static void transpose16(const float* rows, int64_t stride, float* out, int64_t out_stride) {
    for (int i = 0; i < 16; i += 4)
      for (int j = 0; j < 16; j += 4) {
        const float* from = rows + i * stride + j;
        const float32x4x2_t first = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + stride));
        const float32x4x2_t second =
            vtrnq_f32(vld1q_f32(from + 2 * stride), vld1q_f32(from + 3 * stride));
        for (int half = 0; half < 2; ++half) {
          const float32x4_t a = first.val[half], b = second.val[half];
          float* to = out + (j + half) * out_stride + i;
          vst1q_f32(to, vcombine_f32(vget_low_f32(a), vget_low_f32(b)));
          vst1q_f32(to + 2 * out_stride, vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
        }
      }
  }
};

}  // namespace

const AttentionKernels neon_attention = AttentionLoops<NeonAttentionLanes>::table;

}  // namespace trtcoder
