// A range of an int8 cache in tiles: what `IntRange` computes, bit for bit.
//
// Queries and weights of the mix are int16, which tiles do not take. Each is its upper byte, signed,
// times 256, and its lower one, unsigned: two products of tiles whose whole numbers are put together
// before anything is rounded.
#pragma once

#include "kernels/attention_int.h"
#include "kernels/x86/amx/tiles.h"
#include "kernels/x86/avx512/attention_lanes.h"

namespace trtcoder {
namespace {

struct TileRange : IntRange<Avx512AttentionLanes> {
  using Lanes = Avx512AttentionLanes;
  static constexpr int kRows = 16;
  static constexpr int kTileWords = kRows * 16;

  // A group is as wide as a tile.
  static bool takes(const RowFormat& format) {
    return format.arithmetic == Arithmetic::int16 && format.group == kScaleGroup;
  }
  // Rows to fetch ahead at a step: sixteen lanes have few steps.
  template <int vectors>
  static constexpr int kRowsAhead = vectors == 1 ? 4 : 2;

  static void begin() { Tiles::configure(kRows); }
  static void end() { Tiles::release(); }

  // Codes [groups][64 rows][64], and the latent's again by columns: [groups][4][16 columns][64
  // rows], where column c of part i is 16 * (c / 4) + 4 * i + c % 4 of the group.
  static int8_t* codes_of(const AttentionTile& tile) {
    return reinterpret_cast<int8_t*>(tile.codes);
  }
  static int8_t* columns_of(const AttentionTile& tile) {
    return reinterpret_cast<int8_t*>(tile.row_pairs);
  }

  static void load(const RowFormat& format, const QueryLanes&, const RangeRows& rows,
                   const AttentionTile& tile) {
    int8_t* codes = codes_of(tile);
    for (int64_t g = 0; g < format.groups(); ++g) {
      int8_t* to = codes + g * kRangeRows * kScaleGroup;
      float* scales = tile.scales + g * kTileRows;
      for (int r = 0; r < rows.count; ++r, to += kScaleGroup) {
        const auto* from = static_cast<const int8_t*>(rows.entries[r]) + g * kScaleGroup;
        Lanes::store_int(to, Lanes::load_int(from));
        scales[r] = rows.scales[r][g];
      }
      std::memset(to, 0, (kRangeRows - rows.count) * kScaleGroup);
      std::memset(scales + rows.count, 0, spare_rows(rows.count) * sizeof(float));
      if (g * kScaleGroup < format.latent)
        turn(codes + g * kRangeRows * kScaleGroup,
             columns_of(tile) + g * kRangeRows * kScaleGroup);
    }
  }

  // Turns 64 rows of 64 bytes into columns.
  static void turn(const int8_t* rows, int8_t* columns) {
    alignas(64) float fours[4][kTileWords];
    for (int four = 0; four < 16; ++four, rows += 4 * kScaleGroup) {
      const I a = Lanes::load_int(rows), b = Lanes::load_int(rows + 64);
      const I c = Lanes::load_int(rows + 128), d = Lanes::load_int(rows + 192);
      const I ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
      const I ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
      Lanes::store_int(fours[0] + four * 16, _mm512_unpacklo_epi16(ab, cd));
      Lanes::store_int(fours[1] + four * 16, _mm512_unpackhi_epi16(ab, cd));
      Lanes::store_int(fours[2] + four * 16, _mm512_unpacklo_epi16(ab_high, cd_high));
      Lanes::store_int(fours[3] + four * 16, _mm512_unpackhi_epi16(ab_high, cd_high));
    }
    for (int i = 0; i < 4; ++i)
      Lanes::transpose16(fours[i], 16, reinterpret_cast<float*>(columns) + i * kTileWords, 16);
  }

  // The bytes of int16 for sixteen lanes, as a tile has them: four of a lane behind each other.
  struct alignas(64) Bytes {
    uint8_t upper[16 * 64];
    uint8_t lower[16 * 64];
  };

  // Parts `count` pairs of int16 of sixteen lanes, `stride` words apart; zeros behind them.
  static void part(const int32_t* pairs, int64_t stride, int count, Bytes& bytes) {
    // Bytes 0 and 2 of a lane's word, then of its word of the next pair; and 1 and 3.
    const I lane = _mm512_setr_epi32(0x00000000, 0x04040404, 0x08080808, 0x0c0c0c0c, 0x10101010,
                                     0x14141414, 0x18181818, 0x1c1c1c1c, 0x20202020, 0x24242424,
                                     0x28282828, 0x2c2c2c2c, 0x30303030, 0x34343434, 0x38383838,
                                     0x3c3c3c3c);
    const I lower = _mm512_add_epi32(lane, _mm512_set1_epi32(0x42400200));
    const I upper = _mm512_add_epi32(lane, _mm512_set1_epi32(0x43410301));
    for (int four = 0; four < 16; ++four) {
      const int pair = 2 * four;
      const I zero = _mm512_setzero_si512();
      const I first = pair < count ? Lanes::load_int(pairs + pair * stride) : zero;
      const I second = pair + 1 < count ? Lanes::load_int(pairs + (pair + 1) * stride) : zero;
      Lanes::store_int(bytes.upper + four * 64, _mm512_permutex2var_epi8(first, upper, second));
      Lanes::store_int(bytes.lower + four * 64, _mm512_permutex2var_epi8(first, lower, second));
    }
  }

  // Products of a tile with the upper and the lower bytes.
  struct alignas(64) Sums {
    int32_t upper[kTileWords];
    int32_t lower[kTileWords];

    I row(int i) const {
      const I up = Lanes::load_int(upper + i * 16);
      // Shifted by a byte: with a shuffle, since shifts share a port with what follows.
      const I byte = _mm512_broadcast_i32x4(
          _mm_setr_epi8(-128, 0, 1, 2, -128, 4, 5, 6, -128, 8, 9, 10, -128, 12, 13, 14));
      return Lanes::add_int(_mm512_shuffle_epi8(up, byte), Lanes::load_int(lower + i * 16));
    }
  };

  // Multiplies `count` tiles, 1 KB each, with the bytes, and hands each one's sums on. That is done
  // while the next tile is multiplied.
  template <class Take>
  static TRTCODER_INLINE void multiply(const int8_t* tiles, int count, const Bytes& bytes,
                                       Take take) {
    Sums sums[2];
    Tiles::load<6>(bytes.upper, 64), Tiles::load<7>(bytes.lower, 64);
    const auto step = [&]<int turn>(int i) TRTCODER_INLINE_LAMBDA {
      if (i < count) {
        Tiles::load<4 + turn>(tiles + i * 1024, 64);
        Tiles::zero<2 * turn>(), Tiles::zero<2 * turn + 1>();
        Tiles::multiply<2 * turn, 4 + turn, 6>();
        Tiles::multiply_unsigned<2 * turn + 1, 4 + turn, 7>();
      }
      if (i == 0 || i > count) return;
      constexpr int before = 1 - turn;
      Tiles::store<2 * before>(sums[before].upper, 64);
      Tiles::store<2 * before + 1>(sums[before].lower, 64);
      take(i - 1, sums[before]);
    };
    for (int i = 0; i <= count; i += 2) {
      step.template operator()<0>(i);
      step.template operator()<1>(i + 1);
    }
  }

  // Bytes are written one turn before tiles read them, who wait for what was written just now.
  template <int vectors>
  static void scores(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                     const RangeRows& range, const AttentionTile& tile, RowsAhead& ahead) {
    constexpr int64_t pairs = kScaleGroup / 2;
    const int64_t lanes = queries.count, groups = format.groups();
    const auto* query = static_cast<const int32_t*>(queries.words) + lane;
    Bytes bytes[2];
    const auto prepare = [&](int64_t turn) {
      const int64_t g = turn / vectors, v = turn % vectors;
      part(query + g * pairs * lanes + v * 16, lanes, pairs, bytes[turn % 2]);
    };
    prepare(0);
    for (int64_t turn = 0; turn < groups * vectors; ++turn) {
      if (turn + 1 < groups * vectors) prepare(turn + 1);
      const int64_t g = turn / vectors, v = turn % vectors;
      const F scale = Lanes::load(queries.scales + g * lanes + lane + v * 16);
      const float* scales = tile.scales + g * kTileRows;
      ahead.rows(kRowsAhead<vectors>);
      multiply(codes_of(tile) + g * kRangeRows * kScaleGroup, (range.count + kRows - 1) / kRows,
               bytes[turn % 2], [&](int i, const Sums& sums) TRTCODER_INLINE_LAMBDA {
                 float* score = tile.weights + (i * kRows * vectors + v) * 16;
                 // Rows behind the last have room, and scores that nobody takes.
#pragma GCC unroll 16
                 for (int r = 0; r < kRows; ++r) {
                   float* p = score + r * vectors * 16;
                   const F both = Lanes::mul(scale, Lanes::broadcast(scales[i * kRows + r]));
                   const F before = g ? Lanes::load(p) : Lanes::broadcast(0.0f);
                   Lanes::store(p, Lanes::fma(Lanes::from_int(sums.row(r)), both, before));
                 }
               });
    }
  }

  template <int vectors>
  static void mix(const RowFormat& format, const QueryLanes& queries, int64_t lane,
                  const RangeRows& rows, const State& state, const AttentionTile& tile,
                  const Shares<vectors>& shares, RowsAhead& ahead) {
    const int64_t lanes = queries.count, groups = format.latent / kScaleGroup;
    F unit[2][vectors];
    Bytes bytes[2][vectors];
    const auto prepare = [&](int64_t g) {
      quantize_weights<vectors>(queries, lane, rows, tile.weights, tile.scales + g * kTileRows,
                                tile.pairs, unit[g % 2]);
      for (int v = 0; v < vectors; ++v)
        part(tile.pairs + v * 16, vectors * 16, (rows.count + 1) / 2, bytes[g % 2][v]);
    };
    prepare(0);
    for (int64_t g = 0; g < groups; ++g) {
      if (g + 1 < groups) prepare(g + 1);
      for (int v = 0; v < vectors; ++v) {
        ahead.rows(kRowsAhead<vectors>);
        float* mixed = state.mixed + g * kScaleGroup * lanes + lane + v * 16;
        const F old = shares.state[v], fresh = shares.range[v], one = unit[g % 2][v];
        multiply(columns_of(tile) + g * kRangeRows * kScaleGroup, 4, bytes[g % 2][v],
                 [&](int i, const Sums& sums) TRTCODER_INLINE_LAMBDA {
#pragma GCC unroll 16
                   for (int c = 0; c < kRows; ++c) {
                     float* p = mixed + (c / 4 * 16 + i * 4 + c % 4) * lanes;
                     const F mix = Lanes::mul(Lanes::from_int(sums.row(c)), one);
                     Lanes::store(p, shares.is_empty
                                         ? mix
                                         : Lanes::fma(mix, fresh,
                                                      Lanes::mul(Lanes::load(p), old)));
                   }
                 });
      }
    }
  }
};

}  // namespace
}  // namespace trtcoder
