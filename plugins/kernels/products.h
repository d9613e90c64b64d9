// What each instruction set implements of linear layers and experts; the loops around it are in
// `linear.cpp` and `experts.cpp`.
//
// All of them give the same bits. Inside a block sums are of integers, exact in any order. Over the
// blocks of a row float32 sums go from the first to the last, one fused multiply-add each:
//   sum = fma(float(products of codes), weight scale * activation scale, sum)
#pragma once

#include "kernels/isa.h"
#include "kernels/matrix.h"

namespace trtcoder {

struct Products {
  // The largest group of at most `tokens` tokens (at least 1) that `panel` takes.
  int (*group_size)(int64_t tokens);

  // Quantizes one token's activations [width] by their largest magnitude in each block, to
  // whole numbers of [-127, 127]: codes [blocks * block], scales and offsets [blocks]. A block
  // that holds NaN or infinity has that scale.
  void (*quantize)(const float* x, int64_t width, const ActivationFormat& format, int8_t* codes,
                   float* scales, int32_t* offsets);

  // Multiplies sixteen rows with each token: out[token * stride + row].
  void (*panel)(const Matrix& matrix, int64_t panel, const Activations& x, float* out,
                int64_t stride);
};

extern const Products portable_products;
extern const Products avx2_products;
extern const Products avx512_products;
extern const Products neon_products;

const Products& products(Isa isa);

}  // namespace trtcoder
