// Rows, queries and weights of a range as parts in bfloat16.
#pragma once

#include <cstring>

#include "kernels/attention_rows.h"
#include "kernels/x86/amx/bfloat_parts.h"

namespace trtcoder {
namespace {

struct PartsRows {
  using Lanes = Avx512AttentionLanes;
  using F = Lanes::F;
  static constexpr int kParts = BfloatParts::kCount;
  // Blocks of rows in the sums of a mix.
  static constexpr int kRowBlocks = kRangeRows / kTileValues;

  // Blocks of 32 rows; one of zeros where all rows were taken out.
  static int blocks_of(const RangeRows& rows) {
    return rows.count > kTileValues ? kRowBlocks : 1;
  }

  static bool are_in_place(const RowFormat& format) {
    return format.type == CacheType::float32 && format.width % kTileValues == 0;
  }

  // Makes rows float32, with zeros behind their last column, unless they are; and a row of zeros.
  static void widen_rows(const RowFormat& format, const RangeRows& rows,
                         const AttentionTile& tile) {
    const int64_t padded = format.tile_blocks() * kTileValues;
    std::memset(tile.values + kRangeRows * padded, 0, padded * sizeof(float));
    if (are_in_place(format)) return;
    for (int r = 0; r < rows.count; ++r) {
      float* to = tile.values + r * padded;
      convert<Lanes>(format, rows.entries[r], rows.scales[r], 0, format.width, to);
      std::memset(to + format.width, 0, (padded - format.width) * sizeof(float));
    }
  }

  // A row, or one of zeros behind the last.
  static const float* row_at(const RowFormat& format, const RangeRows& rows,
                             const AttentionTile& tile, int r) {
    const int64_t padded = format.tile_blocks() * kTileValues;
    if (r < rows.count && are_in_place(format)) return static_cast<const float*>(rows.entries[r]);
    return tile.values + (r < rows.count ? r : kRangeRows) * padded;
  }

  // As `AttentionKernels` says.
  static void pack_queries(const RowFormat& format, const uint32_t* words, int64_t count,
                           int64_t lanes, uint32_t* out) {
    const auto* queries = reinterpret_cast<const float*>(words);
    auto* to = reinterpret_cast<float*>(out);
    for (int64_t lane = 0; lane < lanes; lane += 16, queries += 16 * format.width)
      for (int64_t j = 0; j < format.width; j += kTileValues) {
        // [part][16 lanes][16 pairs]
        alignas(64) std::byte pairs[kParts * kTileBytes];
        const int64_t left = format.width - j;
        for (int i = 0; i < 16; ++i) {
          const float* query = queries + i * format.width + j;
          const bool is_there = lane + i < count;
          const F low = BfloatParts::load(query, is_there ? left : 0);
          const F high = BfloatParts::load(query + 16, is_there ? left - 16 : 0);
          BfloatParts::store(pairs + i * 64, kTileBytes, BfloatParts::round(low),
                             BfloatParts::round(high));
        }
        for (int i = 0; i < kParts; ++i, to += kTileBytes / sizeof(float))
          Lanes::transpose16(reinterpret_cast<const float*>(pairs + i * kTileBytes), 16, to, 16);
      }
  }

  // Parts of the weights [vectors][2 x 32 rows][part][16 lanes][a pair of each 16 rows].
  template <int vectors>
  static void part_weights(const RangeRows& rows, const AttentionTile& tile) {
    const F zero = Lanes::broadcast(0.0f);
    for (int v = 0; v < vectors; ++v)
      for (int first = 0; first < blocks_of(rows) * kTileValues; first += kTileValues) {
        alignas(64) std::byte pairs[kParts * kTileBytes];
        const auto weight = [&](int r) {
          return r < rows.count ? Lanes::load(tile.weights + (r * vectors + v) * 16) : zero;
        };
        for (int r = 0; r < 16; ++r)
          BfloatParts::store(pairs + r * 64, kTileBytes, BfloatParts::round(weight(first + r)),
                             BfloatParts::round(weight(first + r + 16)));
        std::byte* to =
            tile.weight_parts + (v * kRowBlocks + first / kTileValues) * kParts * kTileBytes;
        for (int i = 0; i < kParts; ++i)
          Lanes::transpose16(reinterpret_cast<const float*>(pairs + i * kTileBytes), 16,
                             reinterpret_cast<float*>(to + i * kTileBytes), 16);
      }
  }
};

}  // namespace
}  // namespace trtcoder
