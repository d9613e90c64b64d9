// Float32 in tiles, which multiply bfloat16.
//
// A float32 is the sum of three bfloat16: its upper, middle and lower eight bits. Of the nine
// products of two numbers' parts the six largest are made: what is left out is at most 2^-22 of the
// whole product. A matrix that is bfloat16 has one part, and three products.
//
// A tile's sums have an order of their own, and float32 roundings: of 32 values the sixteen even
// ones and the sixteen odd ones are added up, each from the first to the last, then the two, then
// what comes out to the sum. It is the same for each row and column, whatever the others hold.
#pragma once

#include <cstddef>
#include <utility>

#include "kernels/x86/amx/tiles.h"
#include "kernels/x86/avx512/attention_lanes.h"

namespace trtcoder {
namespace {

inline constexpr int64_t kTileBytes = 1024;

struct BfloatParts {
  using Lanes = Avx512AttentionLanes;
  using F = Lanes::F;
  using I = Lanes::I;
  static constexpr int kCount = kBfloatParts;
  static constexpr int kUpper = 0, kMiddle = 1, kLower = 2;

  // In the upper halves of words; lower halves of the first part may hold anything.
  I part[kCount];

  // Cuts numbers off: exact, and what is finite stays so.
  static TRTCODER_INLINE BfloatParts cut(F x) {
    const I bits = _mm512_castps_si512(x);
    const F rest = Lanes::sub(x, upper_half(bits));
    const F lower = Lanes::sub(rest, upper_half(_mm512_castps_si512(rest)));
    return {{bits, _mm512_castps_si512(rest), _mm512_castps_si512(lower)}};
  }

  // Rounds the first two parts, so that those behind them are smaller, and of either sign. What is
  // left of the third is cut off.
  static TRTCODER_INLINE BfloatParts round(F x) {
    const I half = _mm512_set1_epi32(0x8000);
    const I upper = Lanes::add_int(_mm512_castps_si512(x), half);
    const F rest = Lanes::sub(x, upper_half(upper));
    const I middle = Lanes::add_int(_mm512_castps_si512(rest), half);
    const F lower = Lanes::sub(rest, upper_half(middle));
    return {{upper, middle, _mm512_castps_si512(lower)}};
  }

  // The upper halves of two vectors' words, as a tile has them: `a` in the lower half of a word.
  static TRTCODER_INLINE I pair(I a, I b) {
    constexpr int kBothOrThird = 0xea;
    return _mm512_ternarylogic_epi32(b, _mm512_set1_epi32(int32_t(0xffff0000)),
                                     _mm512_srli_epi32(a, 16), kBothOrThird);
  }

  // The first `count` values of sixteen, and zeros.
  static TRTCODER_INLINE F load(const float* p, int64_t count) {
    if (count >= 16) return Lanes::load(p);
    return _mm512_maskz_loadu_ps(__mmask16(count < 1 ? 0 : (1 << count) - 1), p);
  }

  // Writes pairs of two numbers' parts, `stride` bytes apart.
  static TRTCODER_INLINE void store(std::byte* p, int64_t stride, const BfloatParts& a,
                                    const BfloatParts& b) {
#pragma GCC unroll 3
    for (int i = 0; i < kCount; ++i)
      Lanes::store_int(p + i * stride, pair(a.part[i], b.part[i]));
  }

 private:
  static TRTCODER_INLINE F upper_half(I bits) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(bits, _mm512_set1_epi32(int32_t(0xffff0000))));
  }
};

// Tiles that stand side by side in a product, of each part and of each 32 values of the sum.
struct TileOperand {
  const std::byte* tiles;
  int64_t row;    // bytes from a row of a tile to the next
  int64_t next;   // to the next tile
  int64_t part;   // to the next part
  int64_t block;  // to the next 32 values
};

template <int count, class Body>
TRTCODER_INLINE void each_index(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) TRTCODER_INLINE_LAMBDA {
    (body.template operator()<i>(), ...);
  }(std::make_integer_sequence<int, count>{});
}

template <int count>
TRTCODER_INLINE void zero_tiles() {
  each_index<count>([]<int i>() TRTCODER_INLINE_LAMBDA { Tiles::zero<i>(); });
}

struct Nothing {
  void operator()(int) const {}
};

// Adds the products of 32 values to tiles 0 to `as` * `bs` - 1, at most four: those of a's tile i and
// b's tile j to tile i * bs + j. `b` has three parts or one. `between(n)` may do what vectors can do
// meanwhile: after each of six products, or, of one tile of a and one part of b, each tile of b.
template <int as, int bs, int b_parts = kBfloatParts, class Between = Nothing>
TRTCODER_INLINE void multiply_block(const TileOperand& a, const TileOperand& b, int64_t block,
                                    Between between = {}) {
  static_assert(as * bs <= 4);
  // From small products to large; from one to the next one operand stays where it is.
  constexpr int kProducts = b_parts == 3 ? 6 : 3;
  constexpr int kA[] = {2, 1, b_parts == 3 ? 1 : 0, 0, 0, 0}, kB[] = {0, 0, b_parts == 3, 1, 2, 0};
  const std::byte* from_a = a.tiles + block * a.block;
  const std::byte* from_b = b.tiles + block * b.block;
  each_index<kProducts>([&]<int n>() TRTCODER_INLINE_LAMBDA {
    constexpr bool new_a = n == 0 || kA[n] != kA[n ? n - 1 : 0];
    constexpr bool new_b = n == 0 || kB[n] != kB[n ? n - 1 : 0];
    const std::byte* part_a = from_a + kA[n] * a.part;
    const std::byte* part_b = from_b + kB[n] * b.part;
    const auto load_a = [&]<int i, int tile>() TRTCODER_INLINE_LAMBDA {
      Tiles::load<tile>(part_a + i * a.next, a.row);
    };
    const auto load_b = [&]<int j, int tile>() TRTCODER_INLINE_LAMBDA {
      Tiles::load<tile>(part_b + j * b.next, b.row);
    };
    if constexpr (as == 1 && b_parts == 1) {
      // A's parts stay, and each of b's tiles is loaded once.
      if constexpr (n > 0) return;
      each_index<3>([&]<int i>() TRTCODER_INLINE_LAMBDA {
        Tiles::load<4 + i>(from_a + kA[i] * a.part, a.row);
      });
      each_index<bs>([&]<int j>() TRTCODER_INLINE_LAMBDA {
        load_b.template operator()<j, 7>();
        each_index<3>([]<int i>() TRTCODER_INLINE_LAMBDA {
          Tiles::multiply_bfloats<j, 4 + i, 7>();
        });
        between(j);
      });
      return;
    } else if constexpr (as <= 2 && bs <= 2) {
      each_index<as>([&]<int i>() TRTCODER_INLINE_LAMBDA {
        if constexpr (new_a) load_a.template operator()<i, 4 + i>();
      });
      each_index<bs>([&]<int j>() TRTCODER_INLINE_LAMBDA {
        if constexpr (new_b) load_b.template operator()<j, 6 + j>();
      });
      each_index<as * bs>([]<int t>() TRTCODER_INLINE_LAMBDA {
        Tiles::multiply_bfloats<t, 4 + t / bs, 6 + t % bs>();
      });
    } else if constexpr (bs == 1) {
      if constexpr (new_b) load_b.template operator()<0, 7>();
      each_index<as>([&]<int i>() TRTCODER_INLINE_LAMBDA {
        load_a.template operator()<i, 4 + i % 3>();
        Tiles::multiply_bfloats<i, 4 + i % 3, 7>();
      });
    } else {
      if constexpr (new_a) load_a.template operator()<0, 7>();
      each_index<bs>([&]<int j>() TRTCODER_INLINE_LAMBDA {
        load_b.template operator()<j, 4 + j % 3>();
        Tiles::multiply_bfloats<j, 7, 4 + j % 3>();
      });
    }
    between(n);
  });
}

// Leaves products in tiles 0 to `as` * `bs` - 1: see `multiply_block`.
template <int as, int bs, int b_parts = kBfloatParts>
TRTCODER_INLINE void multiply_parts(const TileOperand& a, const TileOperand& b, int64_t blocks) {
  zero_tiles<as * bs>();
  for (int64_t block = 0; block < blocks; ++block) multiply_block<as, bs, b_parts>(a, b, block);
}

// Stores tile i * bs + j of a product to row 16 * i, column 16 * j of `out`.
template <int as, int bs>
TRTCODER_INLINE void store_tiles(float* out, int64_t stride) {
  each_index<as * bs>([&]<int t>() TRTCODER_INLINE_LAMBDA {
    Tiles::store<t>(out + t / bs * 16 * stride + t % bs * 16, stride * sizeof(float));
  });
}

}  // namespace
}  // namespace trtcoder
