#include "kernels/attention_entries.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/norm.h"

namespace trtcoder {
namespace {

// The nearest whole number, ties to even, of |x| < 2^22: what is left in the last bits of a sum.
int32_t nearest(float x) { return std::bit_cast<int32_t>(x + 0x1.8p23f) - 0x4b400000; }

// To the nearest, ties to even. NaN stays NaN.
uint16_t to_bfloat(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t to_half(float x) {
  const uint32_t sign = std::bit_cast<uint32_t>(x) >> 16 & 0x8000;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7e00;
  // From here on it would round to 2^16.
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  // Below the normal numbers it is a whole number of 2^-24.
  if (magnitude < 0x1p-14f)
    return static_cast<uint16_t>(sign | uint32_t(nearest(magnitude * 0x1p24f)));
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude) - 0x38000000;
  return static_cast<uint16_t>(sign | (bits + 0xfff + (bits >> 13 & 1)) >> 13);
}

// E4M3 of a value that is at most 448 but for rounding; zero is always +0.
uint8_t to_float8(float x) {
  const float magnitude = std::min(std::fabs(x), 448.0f);
  uint32_t code;
  if (magnitude < 0x1p-6f) {
    code = uint32_t(nearest(magnitude * 0x1p9f));
  } else {
    const uint32_t bits = std::bit_cast<uint32_t>(magnitude) - (120u << 23);
    code = (bits + 0x7ffff + (bits >> 20 & 1)) >> 20;
  }
  return static_cast<uint8_t>(code && std::signbit(x) ? code | 0x80 : code);
}

// The largest magnitude, NaN where a value is not finite.
float largest_of(const float* x, int64_t count) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    finite &= std::fabs(x[i]) <= FLT_MAX;
    largest = std::max(largest, std::fabs(x[i]));
  }
  return finite ? largest : std::numeric_limits<float>::quiet_NaN();
}

// As the stock graph rounds: see `export/graph/latent_cache.py`.
void write_int8(const float* x, int64_t count, int8_t* codes, float* scale) {
  const float largest = largest_of(x, count);
  *scale = std::max(largest, 1e-30f) * (1.0f / 127);
  if (std::isnan(largest)) *scale = largest;
  for (int64_t i = 0; i < count; ++i)
    codes[i] = std::isnan(largest) ? 0 : static_cast<int8_t>(nearest(x[i] / *scale));
}

void write_float8(const float* x, int64_t count, uint8_t* codes, float* scale) {
  const float largest = largest_of(x, count);
  *scale = std::max(largest / 448.0f, FLT_MIN);
  if (std::isnan(largest)) *scale = largest;
  for (int64_t i = 0; i < count; ++i)
    codes[i] = std::isnan(largest) ? 0x7f : to_float8(x[i] / *scale);
}

}  // namespace

void rotate(const float* x, const float* cosines, const float* sines, int64_t width, float* out) {
  for (int64_t i = 0; i < width / 2; ++i) {
    const float even = x[2 * i], odd = x[2 * i + 1];
    out[2 * i] = even * cosines[i] - odd * sines[i];
    out[2 * i + 1] = odd * cosines[i] + even * sines[i];
  }
}

void make_entry(const AttentionShape& shape, const AttentionInputs& inputs, int64_t token,
                float* entry) {
  const float* latent = inputs.latent.values + token * inputs.latent.stride;
  const float inverse = inverse_root_mean_square(latent, shape.latent, inputs.epsilon);
  for (int64_t i = 0; i < shape.latent; ++i) entry[i] = latent[i] * inverse * inputs.norm[i];
  const int64_t half = shape.rope / 2;
  rotate(inputs.key_rope.values + token * inputs.key_rope.stride, inputs.cosines + token * half,
         inputs.sines + token * half, shape.rope, entry + shape.latent);
}

void write_entry(const AttentionShape& shape, const LatentCache& cache, int64_t slot,
                 const float* entry) {
  const int64_t width = shape.width(), groups = cache.scales ? width / cache.group : 0;
  switch (cache.type) {
    case CacheType::float32:
      std::memcpy(static_cast<float*>(cache.entries) + slot * width, entry, width * sizeof(float));
      return;
    case CacheType::float16:
      std::transform(entry, entry + width, static_cast<uint16_t*>(cache.entries) + slot * width,
                     to_half);
      return;
    case CacheType::bfloat16:
      std::transform(entry, entry + width, static_cast<uint16_t*>(cache.entries) + slot * width,
                     to_bfloat);
      return;
    case CacheType::int8:
      for (int64_t g = 0; g < groups; ++g)
        write_int8(entry + g * cache.group, cache.group,
                   static_cast<int8_t*>(cache.entries) + slot * width + g * cache.group,
                   cache.scales + slot * groups + g);
      return;
    case CacheType::float8:
      for (int64_t g = 0; g < groups; ++g)
        write_float8(entry + g * cache.group, cache.group,
                     static_cast<uint8_t*>(cache.entries) + slot * width + g * cache.group,
                     cache.scales + slot * groups + g);
      return;
  }
}

}  // namespace trtcoder
