// The rows of a range as the loops of attention read them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/attention_kernels.h"

namespace trtcoder {
namespace {

// Bytes of parts in tiles (`x86/amx/attention_parts.h`): a line more than they fill, so that what is
// written at once falls into different sets of the nearest cache.
inline constexpr int64_t kRowPartBytes = kRangeRows * 64 + 64;
inline constexpr int64_t kColumnTileBytes = 16 * 64 + 64;

// Working memory of a range. Rows are in chunks of columns, so that a row's place in a chunk is a
// constant distance from the one before.
struct AttentionTile {
  float* weights;      // [kTileRows][lanes of a step], scores before they are weights
  int32_t* pairs;      // [kTileRows / 2][lanes of a step], weights as int16
  float* values;       // [tile_chunks][kTileRows][kTileColumns]; of parts, rows behind each other
  float* scales;       // [groups][kTileRows]
  int16_t* codes;      // [groups][kTileRows][kScaleGroup]
  int32_t* row_pairs;  // [groups][kTileRows / 2][kScaleGroup], a row (low) and the next
  std::byte* row_parts;
  std::byte* column_parts;
  std::byte* weight_parts;

  AttentionTile(const RowFormat& format, std::byte* memory) {
    const auto take = [&]<class T>(T*& part, int64_t count) {
      part = memory ? reinterpret_cast<T*>(memory + bytes) : nullptr;
      bytes += round_up(count * int64_t(sizeof(T)), 64);
    };
    take(weights, kTileRows * kMaxStep);
    take(pairs, kTileRows / 2 * kMaxStep);
    values = scales = nullptr, codes = nullptr, row_pairs = nullptr;
    row_parts = column_parts = weight_parts = nullptr;
    switch (format.arithmetic) {
      case Arithmetic::float32:
        take(values, format.tile_chunks() * kTileRows * kTileColumns);
        return;
      case Arithmetic::int16:
        take(scales, format.groups() * kTileRows);
        take(codes, format.groups() * kTileRows * kScaleGroup);
        take(row_pairs, format.groups() * kTileRows / 2 * kScaleGroup);
        return;
      case Arithmetic::bfloat_parts:
        take(values, (kRangeRows + 1) * format.tile_blocks() * kTileValues);
        take(row_parts, std::max<int64_t>(format.tile_blocks(), 2) * kBfloatParts * kRowPartBytes);
        take(column_parts, std::max<int64_t>(kRangeRows / kTileValues * format.latent_tiles(), 8) *
                               kBfloatParts * kColumnTileBytes);
        take(weight_parts, kMaxStep * kRangeRows * kBfloatParts * int64_t(sizeof(uint16_t)));
    }
  }

  int64_t bytes = 0;
};

// E4M3: its exponent and mantissa are those of a float32 that is 2^120 times too small.
inline float float8_value(uint8_t code) {
  const uint32_t magnitude = code & 0x7f;
  const uint32_t bits = magnitude << 20 | uint32_t(code & 0x80) << 24;
  float value;
  std::memcpy(&value, &bits, 4);
  return magnitude == 0x7f ? NAN : value * 0x1p120f;
}

// Makes `count` values from `start` on float32; both are multiples of a group.
template <class Lanes>
void convert(const RowFormat& format, const void* entry, const float* scales, int64_t start,
             int64_t count, float* out) {
  const auto grouped = [&](auto value) {
    for (int64_t j = 0; j < count; j += format.group) {
      const float scale = scales[(start + j) / format.group];
      for (int64_t i = j; i < j + format.group; ++i) out[i] = value(start + i) * scale;
    }
  };
  switch (format.type) {
    case CacheType::float32:
      std::memcpy(out, static_cast<const float*>(entry) + start, count * sizeof(float));
      return;
    case CacheType::float16:
    case CacheType::bfloat16: {
      const auto* from = static_cast<const uint16_t*>(entry) + start;
      const bool is_half = format.type == CacheType::float16;
      const auto widen = [&](const uint16_t* p) {
        return is_half ? Lanes::load_half(p) : Lanes::load_bfloat(p);
      };
      int64_t j = 0;
      for (; j + 16 <= count; j += 16) Lanes::store(out + j, widen(from + j));
      if (j == count) return;
      uint16_t last[16] = {};
      float wide[16];
      std::memcpy(last, from + j, (count - j) * sizeof(uint16_t));
      Lanes::store(wide, widen(last));
      std::memcpy(out + j, wide, (count - j) * sizeof(float));
      return;
    }
    case CacheType::int8: {
      const auto* codes = static_cast<const int8_t*>(entry);
      return grouped([=](int64_t i) { return static_cast<float>(codes[i]); });
    }
    case CacheType::float8: {
      const auto* codes = static_cast<const uint8_t*>(entry);
      return grouped([=](int64_t i) { return float8_value(codes[i]); });
    }
  }
}

// Rows behind the last that the steps over rows read, and whose scores nobody takes.
inline int64_t spare_rows(int64_t count) {
  const int64_t end = count + 15 < kTileRows ? count + 15 : kTileRows;
  return end - count;
}

}  // namespace
}  // namespace trtcoder
