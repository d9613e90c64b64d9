#include "kernels/products_loops.h"

#include "kernels/x86/amx/panel.h"

namespace trtcoder {
namespace {

using Vectors = ProductLoops<Avx512Lanes>;

// Vectors take up to twelve tokens at once, and are as fast there.
constexpr int kTiledFrom = 13;

int group_size(int64_t tokens) {
  if (tokens < kTiledFrom) return Vectors::group_size(tokens);
  const int64_t groups = (tokens + kMaxGroup - 1) / kMaxGroup;
  return int((tokens + groups - 1) / groups);
}

template <int bits, bool has_zeros>
void tiled_panel(const Matrix& matrix, int64_t panel, const Activations& x, float* out,
                 int64_t stride) {
  if (matrix.block == 32) return TiledPanel<bits, 32, has_zeros>(matrix, panel, x).run(out, stride);
  if (matrix.block == 64) return TiledPanel<bits, 64, has_zeros>(matrix, panel, x).run(out, stride);
  TiledPanel<bits, 128, has_zeros>(matrix, panel, x).run(out, stride);
}

void panel(const Matrix& matrix, int64_t panel, const Activations& x, float* out, int64_t stride) {
  if (!x.tiled) return Vectors::panel(matrix, panel, x, out, stride);
  if (matrix.bits == 4) {
    if (matrix.zeros) return tiled_panel<4, true>(matrix, panel, x, out, stride);
    return tiled_panel<4, false>(matrix, panel, x, out, stride);
  }
  if (matrix.zeros) return tiled_panel<8, true>(matrix, panel, x, out, stride);
  tiled_panel<8, false>(matrix, panel, x, out, stride);
}

}  // namespace

const Products amx_products{group_size,     kTiledFrom,      Vectors::quantize, panel,
                            Vectors::quantize_gated, Vectors::router, Vectors::softmax,
                            Vectors::add_rows};

}  // namespace trtcoder
