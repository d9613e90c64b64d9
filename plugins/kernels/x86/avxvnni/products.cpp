#include "kernels/products_loops.h"

#include "kernels/x86/avx2/lanes.h"

namespace trtcoder {
namespace {

// AVX2 with the dot product of bytes: Intel's processors without AVX-512 since 2021.
struct AvxVnniLanes : Avx2Lanes {
  // Unsigned codes of any number of bits are multiplied as they are.
  template <int bits>
  static constexpr int kBias = 0;

  // Adds the products of codes and the four columns at `x` to 32 bits. Assembly, as in
  // `Avx2Lanes`.
  static inline __attribute__((always_inline)) void add_products(__m256i& sum, __m256i codes,
                                                                 const int8_t* x) {
    __m256i four;
    asm("vpbroadcastd %3, %1\n\t%{vex%} vpdpbusd %1, %2, %0"
        : "+x"(sum), "=&x"(four)
        : "x"(codes), "m"(*reinterpret_cast<const char(*)[4]>(x)));
  }

  // Eight rows.
  template <int bits, int tokens>
  static inline __attribute__((always_inline)) void dot_eight(const uint8_t* codes,
                                                              const int8_t* x,
                                                              __m256i (&sums)[tokens]) {
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int eighth = 0; eighth < 4; ++eighth, x += 8 * tokens) {
      __m256i even, odd;
      if constexpr (bits == 4) {
        const __m256i both = load_codes(codes + eighth * 64);
        even = _mm256_and_si256(both, low);
        odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
      } else {
        even = load_codes(codes + eighth * 128);
        odd = load_codes(codes + eighth * 128 + 64);
      }
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) add_products(sums[t], even, x + 4 * t);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) add_products(sums[t], odd, x + 4 * (tokens + t));
    }
  }

  template <int bits, int tokens>
  static inline __attribute__((always_inline)) void dot(const uint8_t* codes, const int8_t* x,
                                                        I (&sums)[tokens]) {
    dot_halves<AvxVnniLanes, bits, tokens>(codes, x, sums);
  }
};

}  // namespace

const Products avxvnni_products = ProductLoops<AvxVnniLanes>::table;

}  // namespace trtcoder
