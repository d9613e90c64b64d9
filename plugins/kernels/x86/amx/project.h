// Products with the matrix of a head in bfloat16, which tiles take as it is.
#pragma once

#include <algorithm>

#include "kernels/attention_project.h"
#include "kernels/buffer.h"
#include "kernels/x86/amx/bfloat_parts.h"

namespace trtcoder {
namespace {

struct TileProjection {
  using Lanes = Avx512AttentionLanes;
  using I = Lanes::I;
  using Ahead = HeadProducts<Lanes>::Ahead;
  static constexpr int kParts = BfloatParts::kCount;
  // Tokens of a tile.
  static constexpr int64_t kTokens = 16;
  // Tiles of columns that few tokens take at once, whose products wait for each other, and many.
  static constexpr int kFewTiles = 4, kManyTiles = 2;

  static bool takes(const HeadMatrix& m) { return m.type == HeadWeights::Type::bfloat16; }

  static void run(const HeadMatrix& m, const float* x, int64_t x_stride, int64_t tokens, float* y,
                  int64_t y_stride) {
    const int64_t blocks = (m.inputs + kTileValues - 1) / kTileValues;
    const int64_t tiles = (tokens + kTokens - 1) / kTokens;
    const int64_t tile_bytes = kParts * blocks * kTileBytes;
    Buffer<std::byte> parts(tiles * tile_bytes);
    for (int64_t t = 0; t < tiles; ++t)
      part_tokens(x + t * kTokens * x_stride, x_stride, std::min(kTokens, tokens - t * kTokens),
                  m.inputs, parts.data() + t * tile_bytes);
    const TileOperand a{parts.data(), 64, tile_bytes, kTileBytes, kParts * kTileBytes};
    // What stands for tokens behind the last reaches no result.
    const int rows = int(std::min(tokens, kTokens));
    Tiles::configure(rows, rows);
    if (tiles == 1)
      few(m, a, blocks, tokens, y, y_stride);
    else
      many(m, a, blocks, tokens, y, y_stride);
    Tiles::release();
  }

 private:
  // Parts of a tile's tokens [blocks][part][16][a pair of each 16 columns].
  static void part_tokens(const float* x, int64_t x_stride, int64_t tokens, int64_t inputs,
                          std::byte* out) {
    for (int64_t k = 0; k < inputs; k += kTileValues, out += kParts * kTileBytes)
      for (int64_t t = 0; t < tokens; ++t) {
        const float* from = x + t * x_stride + k;
        const int64_t left = inputs - k;
        BfloatParts::store(out + t * 64, kTileBytes,
                           BfloatParts::round(BfloatParts::load(from, left)),
                           BfloatParts::round(BfloatParts::load(from + 16, left - 16)));
      }
  }

  // Pairs of rows from `k` on, sixteen apart, of the columns from `n` on: [tile][16 pairs][16].
  //
  // The first of two tiles has the columns 0-3, 8-11, 16-19 and 24-27 of 32, the other those between,
  // unless they are `in_order`.
  template <int tiles, bool in_order>
  static void pair_rows(const HeadMatrix& m, int64_t k, int64_t n, Ahead& ahead, std::byte* out) {
    const I order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const auto* values = static_cast<const uint16_t*>(m.values) + k * m.outputs + n;
    const int64_t rows = m.inputs - k;
#pragma GCC unroll 2
    for (int half = 0; half < tiles / 2; ++half, values += 32, out += 2 * kTileBytes) {
      const int64_t left = m.outputs - n - half * 32;
      const __mmask32 mask = left >= 32 ? ~__mmask32{0} : left < 1 ? 0 : (__mmask32{1} << left) - 1;
      const auto row = [&](int i) TRTCODER_INLINE_LAMBDA {
        if (i >= rows) return _mm512_setzero_si512();
        const I row = _mm512_maskz_loadu_epi16(mask, values + i * m.outputs);
        return in_order ? _mm512_permutexvar_epi64(order, row) : row;
      };
#pragma GCC unroll 4
      for (int i = 0; i < 16; ++i) {
        const I a = row(i), b = row(i + 16);
        Lanes::store_int(out + i * 64, _mm512_unpacklo_epi16(a, b));
        Lanes::store_int(out + kTileBytes + i * 64, _mm512_unpackhi_epi16(a, b));
        const std::byte* later = ahead.take(128);
        Lanes::prefetch(later), Lanes::prefetch(later + 64);
      }
    }
  }

  // Takes a block's rows at once, all their columns, so that memory is read from front to end; sums
  // wait near by. Rows are paired one turn before they are multiplied: tiles wait for what was
  // written just now.
  static void few(const HeadMatrix& m, const TileOperand& a, int64_t blocks, int64_t tokens,
                  float* y, int64_t y_stride) {
    constexpr int64_t columns = kFewTiles * 16;
    const int64_t steps = (m.outputs + columns - 1) / columns;
    alignas(64) std::byte pairs[2][kFewTiles * kTileBytes];
    Buffer<float> sums(steps * kFewTiles * tokens * 16);
    Ahead ahead(m, m.inputs * m.outputs * 2);
    const auto pair = [&](int64_t turn) {
      pair_rows<kFewTiles, false>(m, turn / steps * kTileValues, turn % steps * columns, ahead,
                                  pairs[turn % 2]);
    };
    pair(0);
    for (int64_t turn = 0; turn < blocks * steps; ++turn) {
      if (turn + 1 < blocks * steps) pair(turn + 1);
      float* sum = sums.data() + turn % steps * kFewTiles * tokens * 16;
      each_index<kFewTiles>([&]<int i>() TRTCODER_INLINE_LAMBDA {
        if (turn < steps)
          Tiles::zero<i>();
        else
          Tiles::load<i>(sum + i * tokens * 16, 64);
      });
      multiply_block<1, kFewTiles, 1>(a, {pairs[turn % 2], 64, kTileBytes, 0, 0}, turn / steps);
      each_index<kFewTiles>([&]<int i>() TRTCODER_INLINE_LAMBDA {
        Tiles::store<i>(sum + i * tokens * 16, 64);
      });
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t n = 0; n < m.outputs; n += 32)
        put_in_order(sums.data() + (n / 16 * tokens + t) * 16, tokens * 16, m.outputs - n,
                     y + t * y_stride + n);
  }

  // Brings 32 columns in order that `pair_rows` has left without, of two tiles' sums.
  static void put_in_order(const float* sums, int64_t stride, int64_t count, float* y) {
    const I first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const I second = Lanes::add_int(first, _mm512_set1_epi32(8));
    const auto low = Lanes::load(sums), high = Lanes::load(sums + stride);
    Lanes::store(y, _mm512_permutex2var_ps(low, first, high));
    if (count > 16) Lanes::store(y + 16, _mm512_permutex2var_ps(low, second, high));
  }

  static void many(const HeadMatrix& m, TileOperand a, int64_t blocks, int64_t tokens,
                   float* y, int64_t y_stride) {
    constexpr int64_t columns = kManyTiles * 16, block_bytes = kManyTiles * kTileBytes;
    alignas(64) float sums[2 * kTokens * columns];
    Buffer<std::byte> pairs(blocks * block_bytes);
    const TileOperand b{pairs.data(), 64, kTileBytes, 0, block_bytes};
    Ahead ahead(m, m.inputs * m.outputs * 2);
    for (int64_t n = 0; n < m.outputs; n += columns) {
      for (int64_t block = 0; block < blocks; ++block)
        pair_rows<kManyTiles, true>(m, block * kTileValues, n, ahead,
                                    pairs.data() + block * block_bytes);
      const int64_t count = std::min(columns, round_up(m.outputs - n, 16));
      const auto some = [&]<int tiles>(int64_t first) {
        TileOperand x = a;
        x.tiles += first / kTokens * a.next;
        float* out = y + first * y_stride + n;
        multiply_parts<tiles, kManyTiles, 1>(x, b, blocks);
        const int64_t rows = std::min(tiles * kTokens, tokens - first);
        if (rows == tiles * kTokens && count == columns) {
          store_tiles<tiles, kManyTiles>(out, y_stride);
          return;
        }
        store_tiles<tiles, kManyTiles>(sums, columns);
        for (int64_t t = 0; t < rows; ++t)
          std::memcpy(out + t * y_stride, sums + t * columns, count * sizeof(float));
      };
      int64_t first = 0;
      for (; tokens - first > kTokens; first += 2 * kTokens) some.template operator()<2>(first);
      if (first < tokens) some.template operator()<1>(first);
    }
  }
};

}  // namespace
}  // namespace trtcoder
