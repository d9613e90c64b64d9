// Panels times a tiled group of tokens, in tiles of sixteen rows and sixteen tokens.
//
// Tiles give each block's whole numbers, vectors add them up: the same numbers, and the same
// multiply-adds from the first block to the last, as `ProductLoops` has for a few tokens. Only who
// computes the whole numbers differs, and those are exact.
//
// Four tiles of weights stay in registers while all tokens pass. What bounds it is the adding: 32
// multiply-adds of vectors for 16 tokens, 16 rows and a block, beside 16 cycles of products of tiles.
#pragma once

#include <initializer_list>

#include "kernels/products.h"
#include "kernels/x86/amx/tiles.h"
#include "kernels/x86/avx512/lanes.h"

#define TRTCODER_TILES_INLINE __attribute__((always_inline))

namespace trtcoder {
namespace {

template <int bits, int block, bool has_zeros>
struct TiledPanels {
  using Lanes = Avx512Lanes;
  using F = Lanes::F;
  using I = Lanes::I;

  // Codes of 8 bits lose the middle code before they are multiplied, and of 4 bits any zero point:
  // both fit into int8. The zero point of 8 bits is subtracted behind, as vectors do it.
  static constexpr bool kZerosBehind = has_zeros && bits == 8;
  static constexpr int kTile = kTileTokens * 16;
  // Blocks that four tiles of weights hold; a block of 32 takes half of one.
  static constexpr int kBlocks = block == 128 ? 2 : 4;
  static constexpr int kPiece = block < 64 ? 64 : block;
  static constexpr int kAhead = 2048;
  static constexpr int kAheadBlocks = kAhead / (block * 16 * bits / 8);

  // What a call works with; all of it stays in the nearest cache, beside the tokens of a step.
  struct alignas(64) Room {
    int32_t sums[kBlocks * kTile];
    float totals[kMaxPanels][(kMaxGroup + 1) * 16];
    // Tiles of weights, by turns. A block of 32 has zeros in the other half of its tile, which the
    // next one shares: even block, zeros, odd block.
    uint8_t weights[2][4 * 1024];
  };

  const Matrix& matrix;
  const int panels;
  const Activations& x;
  const int64_t blocks;
  const int64_t code_bytes;
  const int64_t zero_bytes;
  // Of the first panel.
  const uint8_t* const codes;
  const uint16_t* const scales;
  const uint8_t* const zeros;
  const int tokens;  // of a tile: as equal as possible
  Room room;

  TiledPanels(const Matrix& matrix, int64_t first, int panels, const Activations& x)
      : matrix(matrix), panels(panels), x(x), blocks(matrix.blocks()),
        code_bytes(matrix.panel_code_bytes()), zero_bytes(matrix.panel_zero_bytes()),
        codes(matrix.codes + first * code_bytes), scales(matrix.scales + first * blocks * 16),
        zeros(has_zeros ? matrix.zeros + first * zero_bytes : nullptr),
        tokens(tile_tokens(x.tokens)) {
    if constexpr (block == 32)
      for (uint8_t* part : {room.weights[0], room.weights[1]})
        for (int k = 512; k < 1024; k += 64) {
          _mm512_store_si512(part + k, _mm512_setzero_si512());
          _mm512_store_si512(part + 1536 + k, _mm512_setzero_si512());
        }
  }

  static int tile_tokens(int all) {
    const int tiles = (all + kTileTokens - 1) / kTileTokens;
    return ((all + tiles - 1) / tiles + 1) / 2 * 2;
  }

  // The tokens of a tile, and the blocks of a panel that tiles 4 to 7 hold.
  struct Step {
    int64_t first;  // block
    int count;      // of blocks, 0 where there is nothing to do
    int panel;
    int start;  // token
  };

  // All panels take the tokens' columns of a step before the next ones come.
  void run(float* out, int64_t stride) {
    Tiles::configure(tokens);
    Step now{0, 0, 0, 0}, before{0, 0, 0, 0};
    int turn = 0;
    unpack_some(0, 0, room.weights[0]);
    for (now.first = 0; now.first < blocks; now.first += kBlocks) {
      now.count = count(now.first);
      for (now.panel = 0; now.panel < panels; ++now.panel, turn ^= 1) {
        load_weights(room.weights[turn]);
        for (now.start = 0; now.start < x.tokens; now.start += tokens) {
          advance(now, before);
          before = now;
          // Tiles wait for what was written just before them.
          if (now.start) continue;
          const bool is_last = now.panel + 1 == panels;
          unpack_some(is_last ? 0 : now.panel + 1, is_last ? now.first + kBlocks : now.first,
                      room.weights[turn ^ 1]);
        }
      }
    }
    int32_t* last = room.sums + (kBlocks - 2) * kTile;
    Tiles::store<0>(last, 64), Tiles::store<1>(last + kTile, 64);
    Tiles::release();
    advance({0, 0, 0, 0}, before);
    for (int t = 0; t < x.tokens; ++t)
      for (int p = 0; p < panels; ++p)
        Lanes::store(out + t * stride + p * 16, Lanes::load(room.totals[p] + t * 16));
  }

  // Writes a block's codes as tiles have them: four columns of each row behind each other.
  void unpack(int panel, int64_t index, uint8_t* to) const {
    const uint8_t* from = codes + panel * code_bytes + index * block * 16 * bits / 8;
    // Near a panel's end what is fetched is of a panel of the next call: the one behind is here.
    const int64_t skipped = index + kAheadBlocks < blocks ? 0 : panels - 1;
    const uint8_t* ahead = from + kAhead + skipped * code_bytes;
    Lanes::prefetch(scales + ((panel + skipped) * blocks + index + kAheadBlocks) * 16);
    I zero = _mm512_setzero_si512();
    if constexpr (has_zeros && bits == 4) {
      const __m128i both = _mm_loadu_si128(
          reinterpret_cast<const __m128i*>(zeros + panel * zero_bytes + index / 2 * 16));
      const __m128i bytes =
          _mm_and_si128(index % 2 ? _mm_srli_epi16(both, 4) : both, _mm_set1_epi8(15));
      const I four_each = _mm512_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303, 0x04040404,
                                            0x05050505, 0x06060606, 0x07070707, 0x08080808,
                                            0x09090909, 0x0a0a0a0a, 0x0b0b0b0b, 0x0c0c0c0c,
                                            0x0d0d0d0d, 0x0e0e0e0e, 0x0f0f0f0f);
      zero = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), four_each);
    }
#pragma GCC unroll 16
    for (int eighth = 0; eighth < block / 8; ++eighth, to += 128) {
      I even, odd;
      if constexpr (bits == 4) {
        Lanes::prefetch(ahead + eighth * 64);
        const I both = _mm512_loadu_si512(from);
        from += 64;
        if constexpr (has_zeros) {
          const I low = _mm512_set1_epi8(15);
          even = _mm512_sub_epi8(_mm512_and_si512(both, low), zero);
          odd = _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), zero);
        } else {
          // Of four bits the upper one, turned round, is the sign: code - 8. One product of bits
          // takes them from a byte: the rows of its matrix say which bit each bit becomes.
          even = _mm512_gf2p8affine_epi64_epi8(both, _mm512_set1_epi64(kLowBits), 0xf8);
          odd = _mm512_gf2p8affine_epi64_epi8(both, _mm512_set1_epi64(kHighBits), 0xf8);
        }
      } else {
        Lanes::prefetch(ahead + eighth * 128);
        Lanes::prefetch(ahead + eighth * 128 + 64);
        even = _mm512_loadu_si512(from), odd = _mm512_loadu_si512(from + 64);
        from += 128;
        if constexpr (!has_zeros) {
          const I middle = _mm512_set1_epi8(-128);
          even = _mm512_xor_si512(even, middle), odd = _mm512_xor_si512(odd, middle);
        }
      }
      _mm512_store_si512(to, even);
      _mm512_store_si512(to + 64, odd);
    }
  }
  // Byte 0 of the matrix makes bit 7 of the result: bits 7 to 3 are bit 3 (7), then 2, 1, 0 (6 to 4).
  static constexpr long long kLowBits = 0x0102040808080808;
  static constexpr long long kHighBits = 0x1020408080808080;

  // How many blocks there are from `first` on, of those that four tiles hold.
  int count(int64_t first) const {
    return int(blocks - first < kBlocks ? blocks - first : kBlocks);
  }

  void unpack_some(int panel, int64_t first, uint8_t* to) const {
    const int some = count(first);
    for (int b = 0; b < some; ++b)
      unpack(panel, first + b, to + (block == 32 ? b / 2 * 1536 + b % 2 * 1024 : b * block * 16));
  }

  static void load_weights(const uint8_t* w) {
    constexpr int shared = block == 32 ? 512 : 1024;
    Tiles::load<4>(w, 64), Tiles::load<5>(w + shared, 64);
    w += shared + 1024;
    Tiles::load<6>(w, 64), Tiles::load<7>(w + shared, 64);
  }

  // Multiplies one step and adds up the one before, so that tiles and vectors are at work at once.
  void advance(const Step& now, const Step& before) {
    const int left = x.tokens - before.start;
    const int some = before.count ? left < tokens ? left : tokens : 0;
    switch ((some + 1) / 2) {
      case 0: return advance_some<0>(now, before);
      case 1: return advance_some<2>(now, before);
      case 2: return advance_some<4>(now, before);
      case 3: return advance_some<6>(now, before);
      case 4: return advance_some<8>(now, before);
      case 5: return advance_some<10>(now, before);
      case 6: return advance_some<12>(now, before);
      case 7: return advance_some<14>(now, before);
      default: return advance_some<16>(now, before);
    }
  }

  template <int some>
  __attribute__((noinline)) void advance_some(const Step& now, const Step& before) {
    float* totals = room.totals[before.panel] + before.start * 16;
    F total[some + 1];
#pragma GCC unroll 16
    for (int t = 0; t < some; ++t)
      total[t] = before.first ? Lanes::load(totals + t * 16) : Lanes::broadcast(0.0f);
    const auto part = [&]<int i>() TRTCODER_TILES_INLINE {
      if (now.count) multiply<i>(now);
      if constexpr (some > 0)
        if (i < before.count) add<some>(before, i, room.sums + i * kTile, total);
    };
    part.template operator()<0>(), part.template operator()<1>();
    if constexpr (kBlocks == 4) part.template operator()<2>(), part.template operator()<3>();
#pragma GCC unroll 16
    for (int t = 0; t < some; ++t) Lanes::store(totals + t * 16, total[t]);
  }

  // Multiplies the tokens with block `i` of the step. A product of tiles takes its time: what is
  // stored here is the sums of two blocks before.
  template <int i>
  TRTCODER_TILES_INLINE void multiply(const Step& now) {
    constexpr int sum = i % 2;
    constexpr int codes = block == 32 ? 2 + i / 2 : 2 + i % 2;
    const int64_t piece = now.first * block / kPiece + (block == 32 ? i / 2 : i);
    const int64_t last = (blocks * block - 1) / kPiece;
    const int8_t* from = x.codes + (piece < last ? piece : last) * kPiece * x.tokens +
                         now.start * kPiece;
    if constexpr (block == 128) Tiles::load<2>(from, 128), Tiles::load<3>(from + 64, 128);
    else if constexpr (block == 64 || i % 2 == 0) Tiles::load<codes>(from, 64);
    Tiles::store<sum>(room.sums + (i + 2) % kBlocks * kTile, 64);
    Tiles::zero<sum>();
    if constexpr (block == 128)
      products<sum, 2, 4 + 2 * i>(), products<sum, 3, 5 + 2 * i>();
    else
      products<sum, codes, 4 + i>();
  }

  template <int sum, int a, int b>
  static TRTCODER_TILES_INLINE void products() {
    if constexpr (kZerosBehind) Tiles::multiply_unsigned<sum, a, b>();
    else Tiles::multiply<sum, a, b>();
  }

  // Adds a block's sums to the tokens' totals.
  template <int some>
  TRTCODER_TILES_INLINE void add(const Step& step, int i, const int32_t* sums,
                                 F (&total)[some + 1]) const {
    const int64_t index = step.first + i;
    const F scale = Lanes::load_half(scales + (step.panel * blocks + index) * 16);
    const F base = Lanes::mul(scale, Lanes::broadcast(-kZero));
    const int64_t at = index * x.tokens + step.start;
    const float* token_scales = x.scales + at;
    asm("" : "+r"(token_scales));  // An address of two registers costs an instruction more.
    F zero;
    if constexpr (kZerosBehind)
      zero = Lanes::from_int(
          Lanes::load_bytes(zeros + step.panel * zero_bytes + index * 16));
#pragma GCC unroll 16
    for (int t = 0; t < some; ++t) {
      const I whole = _mm512_load_si512(sums + t * 16);
      F products = Lanes::as_floats(Lanes::add_int(whole, Lanes::broadcast_int(kZeroBits)));
      if constexpr (kZerosBehind) {
        const F sum = Lanes::from_int(Lanes::broadcast_int(x.offsets[at + t]));
        products = Lanes::fnma(zero, sum, products);
      }
      const F scaled = Lanes::fma(products, scale, base);
      total[t] = Lanes::fma(scaled, Lanes::broadcast(token_scales[t]), total[t]);
    }
  }
};

}  // namespace
}  // namespace trtcoder
