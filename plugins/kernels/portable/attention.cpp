#include "kernels/attention_loops.h"

#include "kernels/portable/lanes.h"

namespace trtcoder {
namespace {

struct PortableAttentionLanes : PortableLanes {
  // What a step takes: vectors of lanes, and for so many of them rows of scores and columns of the
  // mix. A step's sums should fit into the registers.
  static constexpr int kMaxVectors = 1;
  template <int vectors>
  static constexpr int kScoreRows = 2;
  template <int vectors>
  static constexpr int kMixColumns = 4;
  template <int vectors>
  static constexpr int kIntMixColumns = 2;

  static I load_int(const void* p) {
    I r;
    std::memcpy(r.lane, p, sizeof r.lane);
    return r;
  }
  static void store_int(void* p, I a) { std::memcpy(p, a.lane, sizeof a.lane); }
  // The low halves of two vectors: the first's low, the second's high.
  static I pair(I low, I high) {
    return each_int([&](int i) {
      return static_cast<int32_t>(uint32_t(uint16_t(low.lane[i])) | uint32_t(high.lane[i]) << 16);
    });
  }
  static I broadcast_word(const void* p) {
    int32_t word;
    std::memcpy(&word, p, sizeof word);
    return broadcast_int(word);
  }
  // Adds the products of the low halves and of the high halves, as int16.
  static I dot_pairs(I sum, I a, I b) {
    return each_int([&](int i) {
      return sum.lane[i] + int16_t(a.lane[i]) * int16_t(b.lane[i]) +
             (a.lane[i] >> 16) * (b.lane[i] >> 16);
    });
  }
  // 32 bytes as int16.
  static void widen_bytes(const int8_t* p, int16_t* out) {
    for (int i = 0; i < 32; ++i) out[i] = p[i];
  }
  // 32 bytes as the low halves of int32, 32 others as the high halves.
  static void pair_bytes(const int8_t* low, const int8_t* high, int32_t* out) {
    for (int i = 0; i < 32; ++i)
      out[i] = static_cast<int32_t>(uint32_t(uint16_t(low[i])) | uint32_t(uint16_t(high[i])) << 16);
  }
  // x where a < b, otherwise y.
  static F where_less(F a, F b, F x, F y) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]; });
  }
  // out[j * out_stride + i] = rows[i * stride + j] for 16 x 16 words.
  static void transpose16(const float* rows, int64_t stride, float* out, int64_t out_stride) {
    for (int j = 0; j < 16; ++j)
      for (int i = 0; i < 16; ++i)
        std::memcpy(out + j * out_stride + i, rows + i * stride + j, sizeof(float));
  }
};

}  // namespace

const AttentionKernels portable_attention = AttentionLoops<PortableAttentionLanes>::table;

}  // namespace trtcoder
