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
void tiled_panels(const Matrix& matrix, int64_t first, int count, const Activations& x, float* out,
                  int64_t stride) {
  const auto run = [&]<int block>() {
    TiledPanels<bits, block, has_zeros>(matrix, first, count, x).run(out, stride);
  };
  if (matrix.block == 32) return run.template operator()<32>();
  if (matrix.block == 64) return run.template operator()<64>();
  run.template operator()<128>();
}

void panels(const Matrix& matrix, int64_t first, int count, const Activations& x, float* out,
            int64_t stride) {
  if (!x.tiled || matrix.is_float()) return Vectors::panels(matrix, first, count, x, out, stride);
  if (matrix.bits == 4) {
    if (matrix.zeros) return tiled_panels<4, true>(matrix, first, count, x, out, stride);
    return tiled_panels<4, false>(matrix, first, count, x, out, stride);
  }
  if (matrix.zeros) return tiled_panels<8, true>(matrix, first, count, x, out, stride);
  tiled_panels<8, false>(matrix, first, count, x, out, stride);
}

}  // namespace

const Products amx_products{.group_size = group_size,
                            .float_group_size = Vectors::Floats::group_size,
                            .tiled_from = kTiledFrom,
                            .panels_at_once = kMaxPanels,
                            .quantize = Vectors::quantize,
                            .panels = panels,
                            .quantize_gated = Vectors::quantize_gated,
                            .gate = Vectors::gate,
                            .router = Vectors::router,
                            .softmax = Vectors::softmax,
                            .add_rows = Vectors::add_rows};

}  // namespace trtcoder
