// Tiles: eight registers of sixteen rows of 64 bytes, and the products of two of them.
//
// Assembly, not the compilers' intrinsics: GCC 12's do not say that they read and write memory.
#pragma once

#include <stdint.h>

namespace trtcoder {
namespace {

struct Tiles {
  // Makes this thread's tiles 0 to 3 ones of `rows` rows, 4 to 6 of `middle`, and 7 a whole one. A
  // product has as many rows as its sum and its first operand. Between two uses another library of
  // the process may have made others of them.
  static void configure(int rows, int middle = 16) {
    const auto some = static_cast<uint8_t>(rows), others = static_cast<uint8_t>(middle);
    const Shapes shapes{1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64},
                        {some, some, some, some, others, others, others, 16}};
    asm volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
  }
  // Gives them back: a thread that keeps tiles makes every switch to it save and restore 8 KB.
  static void release() { asm volatile("tilerelease" : : : "memory"); }

  template <int tile>
  static inline __attribute__((always_inline)) void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile) : "memory");
  }
  // Rows are `stride` bytes apart.
  template <int tile>
  static inline __attribute__((always_inline)) void load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  static inline __attribute__((always_inline)) void store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(tile) : "memory");
  }

  // sum[i][j] += the products of row i of `a`, 64 int8, and column j of `b`, whose rows hold four
  // int8 (uint8) of each column: a[i][4 * k + l] * b[k][j][l] over k and l.
  template <int sum, int a, int b>
  static inline __attribute__((always_inline)) void multiply() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b) : "memory");
  }
  template <int sum, int a, int b>
  static inline __attribute__((always_inline)) void multiply_unsigned() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b) : "memory");
  }
  // sum[i][j] += the products of row i of `a`, 32 bfloat16, and column j of `b`, whose rows hold two
  // of each column; see `bfloat_parts.h`.
  template <int sum, int a, int b>
  static inline __attribute__((always_inline)) void multiply_bfloats() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b) : "memory");
  }

 private:
  struct alignas(64) Shapes {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
};

}  // namespace
}  // namespace trtcoder
