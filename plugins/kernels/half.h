// float16 without instructions for it.
#pragma once

#include <bit>
#include <cstdint>

namespace trtcoder {

// Exact for every float16, subnormal ones, infinities and NaN included.
static inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) {
    bits = 0x7f800000 | (magnitude << 13);
  } else if (magnitude >= 0x0400) {
    bits = (magnitude << 13) + 0x38000000;
  } else {
    // A subnormal is a whole number of 2^-24.
    bits = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  }
  return std::bit_cast<float>(sign | bits);
}

}  // namespace trtcoder
