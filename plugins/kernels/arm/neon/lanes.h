// Sixteen lanes in four 128-bit registers, with the dot product of bytes.
// `portable/lanes.h` says what each function computes.
#pragma once

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

namespace trtcoder {
namespace {

struct NeonLanes {
  struct F {
    float32x4_t part[4];
  };
  struct I {
    int32x4_t part[4];
  };

  template <class Op>
  static F each(Op op) {
    return {{op(0), op(1), op(2), op(3)}};
  }
  template <class Op>
  static I each_int(Op op) {
    return {{op(0), op(1), op(2), op(3)}};
  }

  static F broadcast(float x) {
    return each([&](int) { return vdupq_n_f32(x); });
  }
  static F load(const float* p) {
    return each([&](int i) { return vld1q_f32(p + 4 * i); });
  }
  static F load_half(const uint16_t* p) {
    return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static F load_bfloat(const uint16_t* p) {
    return each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
  }
  static void store(float* p, F a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.part[i]);
  }

  static F add(F a, F b) {
    return each([&](int i) { return vaddq_f32(a.part[i], b.part[i]); });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return vsubq_f32(a.part[i], b.part[i]); });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return vmulq_f32(a.part[i], b.part[i]); });
  }
  static F div(F a, F b) {
    return each([&](int i) { return vdivq_f32(a.part[i], b.part[i]); });
  }
  static F fma(F a, F b, F c) {
    return each([&](int i) { return vfmaq_f32(c.part[i], a.part[i], b.part[i]); });
  }
  static F fnma(F a, F b, F c) {
    return each([&](int i) { return vfmsq_f32(c.part[i], a.part[i], b.part[i]); });
  }
  static F max(F a, F b) {
    return each([&](int i) {
      return vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]);
    });
  }
  static F min(F a, F b) {
    return each([&](int i) {
      return vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]);
    });
  }

  static I load_signed_bytes(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t first = vmovl_s8(vget_low_s8(bytes)), second = vmovl_high_s8(bytes);
    return {{vmovl_s16(vget_low_s16(first)), vmovl_high_s16(first),
             vmovl_s16(vget_low_s16(second)), vmovl_high_s16(second)}};
  }
  static I widen(uint8x16_t bytes) {
    const uint16x8_t first = vmovl_u8(vget_low_u8(bytes)), second = vmovl_u8(vget_high_u8(bytes));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(first))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(first))),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(second))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(second)))}};
  }
  static I load_bytes(const uint8_t* p) { return widen(vld1q_u8(p)); }
  static I nibbles(const uint8_t* p, int shift) {
    return widen(vandq_u8(vshlq_u8(vld1q_u8(p), vdupq_n_s8(int8_t(-shift))), vdupq_n_u8(15)));
  }
  static I broadcast_int(int32_t x) {
    return each_int([&](int) { return vdupq_n_s32(x); });
  }
  static I add_int(I a, I b) {
    return each_int([&](int i) { return vaddq_s32(a.part[i], b.part[i]); });
  }
  static I max_int(I a, I b) {
    return each_int([&](int i) { return vmaxq_s32(a.part[i], b.part[i]); });
  }
  static F from_int(I a) {
    return each([&](int i) { return vcvtq_f32_s32(a.part[i]); });
  }
  static F as_floats(I a) {
    return each([&](int i) { return vreinterpretq_f32_s32(a.part[i]); });
  }
  static I to_int(F a) {
    return each_int([&](int i) { return vcvtnq_s32_f32(a.part[i]); });
  }
  static I magnitude_bits(F a) {
    return each_int([&](int i) {
      return vandq_s32(vreinterpretq_s32_f32(a.part[i]), vdupq_n_s32(0x7fffffff));
    });
  }
  static F scale_by_power(F a, I n) {
    return each([&](int i) {
      return vreinterpretq_f32_s32(
          vaddq_s32(vreinterpretq_s32_f32(a.part[i]), vshlq_n_s32(n.part[i], 23)));
    });
  }

  static float sum(F a) {
    const float32x4_t four = vaddq_f32(vaddq_f32(a.part[0], a.part[2]),
                                       vaddq_f32(a.part[1], a.part[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static int32_t sum_int(I a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.part[0], a.part[1]), vaddq_s32(a.part[2], a.part[3])));
  }
  static int32_t max_lane(I a) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.part[0], a.part[1]), vmaxq_s32(a.part[2], a.part[3])));
  }

  static void store_codes(int8_t* p, I a) {
    static const uint8_t kOrder[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    const int16x8_t first = vcombine_s16(vmovn_s32(a.part[0]), vmovn_s32(a.part[1]));
    const int16x8_t second = vcombine_s16(vmovn_s32(a.part[2]), vmovn_s32(a.part[3]));
    vst1q_s8(p, vqtbl1q_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second)), vld1q_u8(kOrder)));
  }

  static constexpr int kMaxTokens = 4;
  // Of products with float32 matrices: vectors of sums, and tokens.
  static constexpr int kFloatSums = 6, kFloatTokens = 6;
  // The dot product takes two signed vectors.
  template <int bits>
  static constexpr int kBias = bits == 8 ? 128 : 8;

  static void prefetch(const void* p) { __builtin_prefetch(p); }

  static int8x16_t four_columns(const int8_t* x) {
    int32_t four;
    memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }

  template <int bits, int tokens>
  static inline __attribute__((always_inline)) void dot(const uint8_t* codes, const int8_t* x,
                                                        I (&sums)[tokens]) {
    for (int eighth = 0; eighth < 4; ++eighth) {
      const int8_t* p = x + eighth * 8 * tokens;
      for (int rows = 0; rows < 4; ++rows) {
        int8x16_t even, odd;
        if constexpr (bits == 4) {
          const uint8x16_t both = vld1q_u8(codes + eighth * 64 + rows * 16);
          const int8x16_t eight = vdupq_n_s8(8);
          even = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), eight);
          odd = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), eight);
        } else {
          const uint8x16_t middle = vdupq_n_u8(128);
          const uint8_t* q = codes + eighth * 128 + rows * 16;
          even = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(q), middle));
          odd = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(q + 64), middle));
        }
        for (int t = 0; t < tokens; ++t) {
          int32x4_t& sum = sums[t].part[rows];
          sum = vdotq_s32(sum, even, four_columns(p + 4 * t));
          sum = vdotq_s32(sum, odd, four_columns(p + 4 * (tokens + t)));
        }
      }
    }
  }
};

}  // namespace
}  // namespace trtcoder
