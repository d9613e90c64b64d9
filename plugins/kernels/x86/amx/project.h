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
  // How far ahead few tokens fetch: a block of W_UK's rows and a half.
  static constexpr int64_t kFewAhead = 49152;

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

  // Pairs up rows k and k + 16, in 32 columns from `n` on, as two rows of sixteen words, `half` bytes
  // apart: columns 0-3, 8-11, 16-19 and 24-27, then those between, unless they are `in_order`. As
  // many bytes are fetched `ahead`.
  template <bool in_order>
  static TRTCODER_INLINE void pair(const HeadMatrix& m, int64_t k, int64_t n, Ahead& ahead,
                                   std::byte* out, int64_t half) {
    const auto* values = static_cast<const uint16_t*>(m.values) + k * m.outputs + n;
    const int64_t left = m.outputs - n;
    const __mmask32 mask = left >= 32 ? ~__mmask32{0} : left < 1 ? 0 : (__mmask32{1} << left) - 1;
    const auto row = [&](int i) TRTCODER_INLINE_LAMBDA {
      if (k + i >= m.inputs) return _mm512_setzero_si512();
      const I row = _mm512_maskz_loadu_epi16(mask, values + i * m.outputs);
      const I order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
      return in_order ? _mm512_permutexvar_epi64(order, row) : row;
    };
    const I a = row(0), b = row(16);
    Lanes::store_int(out, _mm512_unpacklo_epi16(a, b));
    Lanes::store_int(out + half, _mm512_unpackhi_epi16(a, b));
    const std::byte* later = ahead.take(128);
    Lanes::prefetch(later), Lanes::prefetch(later + 64);
  }

  // Memory is read from front to end, a block's rows at once; sums wait near by. Rows are paired while
  // those of the block before are multiplied.
  static void few(const HeadMatrix& m, const TileOperand& a, int64_t blocks, int64_t tokens,
                  float* y, int64_t y_stride) {
    const int64_t steps = (m.outputs + kFewTiles * 16 - 1) / (kFewTiles * 16);
    const int64_t tiles = steps * kFewTiles, block_bytes = tiles * kColumnTileBytes;
    Buffer<std::byte> pairs(2 * block_bytes);
    Buffer<float> sums(tiles * tokens * 16);
    const int64_t bytes = m.inputs * m.outputs * 2;
    Ahead ahead(m, bytes, std::min(kFewAhead, bytes));
    // A block's pairs of rows, in pieces of 32 columns: one part of them for each tile.
    const int64_t pieces = 16 * (tiles / 2);
    const auto pair_some = [&](int64_t block, int64_t part) TRTCODER_INLINE_LAMBDA {
      std::byte* to = pairs.data() + block % 2 * block_bytes;
      for (int64_t i = pieces * part / tiles; i < pieces * (part + 1) / tiles; ++i) {
        const int64_t row = i / (tiles / 2), column = i % (tiles / 2);
        pair<false>(m, block * kTileValues + row, column * 32, ahead,
                    to + column * 2 * kColumnTileBytes + row * 64, kColumnTileBytes);
      }
    };
    for (int64_t part = 0; part < tiles; ++part) pair_some(0, part);
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t step = 0; step < steps; ++step) {
        float* sum = sums.data() + step * kFewTiles * tokens * 16;
        each_index<kFewTiles>([&]<int i>() TRTCODER_INLINE_LAMBDA {
          if (block == 0)
            Tiles::zero<i>();
          else
            Tiles::load<i>(sum + i * tokens * 16, 64);
        });
        const TileOperand b{pairs.data() + block % 2 * block_bytes +
                                step * kFewTiles * kColumnTileBytes,
                            64, kColumnTileBytes, 0, 0};
        multiply_block<1, kFewTiles, 1>(a, b, block, [&](int tile) TRTCODER_INLINE_LAMBDA {
          if (block + 1 < blocks) pair_some(block + 1, step * kFewTiles + tile);
        });
        each_index<kFewTiles>([&]<int i>() TRTCODER_INLINE_LAMBDA {
          Tiles::store<i>(sum + i * tokens * 16, 64);
        });
      }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t n = 0; n < m.outputs; n += 32)
        put_in_order(sums.data() + (n / 16 * tokens + t) * 16, tokens * 16, m.outputs - n,
                     y + t * y_stride + n);
  }

  // Brings 32 columns in order that `pair` has left without, of two tiles' sums.
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
        for (int i = 0; i < 16; ++i)
          pair<true>(m, block * kTileValues + i, n, ahead,
                     pairs.data() + block * block_bytes + i * 64, kTileBytes);
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
