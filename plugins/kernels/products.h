// What each instruction set implements of linear layers and experts; the loops around it are in
// `linear.cpp` and `experts.cpp`.
//
// All of them give the same bits. Inside a block sums are of integers, exact in any order. Over the
// blocks of a row float32 sums go from the first to the last, one fused multiply-add each:
//   sum = fma(float(products of codes) * weight scale, activation scale, sum)
// So a token's bits are the same whether its group is multiplied by vectors or by tiles. With
// float32 matrices the sums go over single columns instead:
//   sum = fma(weight, activation, sum)
//
// No instruction makes floats of a block's integers. They are added to `kZeroBits`: read as float32,
// that is kZero plus the integer, exactly, as long as it is below 2^22. The first product is
//   fma(kZero + integer, weight scale, -kZero * weight scale)
// whose last operand is exact too, since a weight's scale is a float16.
#pragma once

#include "kernels/isa.h"
#include "kernels/matrix.h"

namespace trtcoder {

// The router's rows [experts, width]: float32, or bfloat16 as the upper halves of float32.
struct RouterWeights {
  const void* rows;
  bool is_bfloat;
  int64_t experts;
  int64_t width;
};

// No group of tokens is larger, and no block smaller or larger.
inline constexpr int kMaxGroup = 64;
inline constexpr int kMinBlock = 32, kMaxBlock = 128;
// Where sums of a block start: see above.
inline constexpr int32_t kZeroBits = 0x4b400000;
inline constexpr float kZero = 0x1.8p23f;
static_assert(kMaxBlock * 255 * 127 < 1 << 22);
// Tokens of a tile.
inline constexpr int kTileTokens = 16;
// No more panels are multiplied at once.
inline constexpr int kMaxPanels = 4;

struct Products {
  // The first of the fewest groups, as equal as possible, that `tokens` tokens make for `panels`; of
  // a float32 matrix by the other.
  int (*group_size)(int64_t tokens);
  int (*float_group_size)(int64_t tokens);
  // Groups of so many tokens or more are tiled (see `Activations`).
  int tiled_from;
  // How many panels of integers `panels` takes best.
  int panels_at_once;

  // Quantizes one token's activations [width] by their largest magnitude in each block, to
  // whole numbers of [-127, 127]: codes [blocks * block], scales and offsets [blocks]. A block
  // that holds NaN or infinity has that scale.
  void (*quantize)(const float* x, int64_t width, const ActivationFormat& format, int8_t* codes,
                   float* scales, int32_t* offsets);

  // Multiplies the rows of up to kMaxPanels panels with each token: out[token * stride + row].
  void (*panels)(const Matrix& matrix, int64_t first, int count, const Activations& x, float* out,
                 int64_t stride);

  // Quantizes silu(gate) * up of one block of `columns` values, of which sixteen of gate and
  // sixteen of up alternate; see `quantize`.
  void (*quantize_gated)(const float* gate_up, int columns, const ActivationFormat& format,
                         int8_t* codes, float* scale, int32_t* offset);
  // The same without rounding: writes `columns` values, a multiple of 16.
  void (*gate)(const float* gate_up, int columns, float* out);

  // out[t * stride + e] = the product of x[t] and weights[e], both [width], for `tokens` <= 4
  // tokens and `experts` <= 4 rows of the router.
  void (*router)(const RouterWeights& weights, int64_t first_expert, int experts, const float* x,
                 int tokens, float* out, int64_t stride);

  // Softmax over `count` values.
  void (*softmax)(const float* x, int64_t count, float* out);

  // Adds products [tokens][width], a multiple of 16 wide, to rows of `sums`, each with its factor:
  // sums[rows[t] * stride + i] += factors[t] * products[t * width + i].
  void (*add_rows)(const float* products, int tokens, int width, const float* factors,
                   const int64_t* rows, float* sums, int64_t stride);
};

extern const Products portable_products;
extern const Products avx2_products;
extern const Products avxvnni_products;
extern const Products avx512_products;
extern const Products amx_products;
extern const Products neon_products;

const Products& products(Isa isa);

// Calls `each(panel, count)` for the panels [first, end), as many at once as `panels` takes best.
template <class Each>
void by_panels(const Products& kernels, const Matrix& matrix, int64_t first, int64_t end,
               Each each) {
  const int most = matrix.is_float() ? kMaxPanels : kernels.panels_at_once;
  for (; first < end; first += most) each(first, end - first < most ? int(end - first) : most);
}

}  // namespace trtcoder
