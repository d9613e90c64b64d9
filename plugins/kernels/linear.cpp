#include "kernels/linear.h"

#include <algorithm>
#include <cstring>

#include "kernels/activation_groups.h"
#include "kernels/products.h"

namespace trtcoder {
namespace {

// Multiplies some panels with all tokens; their codes stay in a near cache meanwhile.
void multiply(const Products& kernels, const Matrix& matrix, int64_t first, int count,
              const ActivationGroups& groups, float* y) {
  const int64_t rows = matrix.rows, whole = std::min<int64_t>(count * 16, rows - first * 16);
  for (int64_t g = 0; g < groups.count(); ++g) {
    const Activations x = groups[g];
    float* out = y + groups.start(g) * rows + first * 16;
    if (whole == count * 16) {
      kernels.panels(matrix, first, count, x, out, rows);
      continue;
    }
    float tile[kMaxGroup * kMaxPanels * 16];
    kernels.panels(matrix, first, count, x, tile, count * 16);
    for (int t = 0; t < x.tokens; ++t)
      std::memcpy(out + t * rows, tile + t * count * 16, whole * sizeof(float));
  }
}

}  // namespace

void linear(Isa isa, Team& team, const float* x, int64_t tokens, const Matrix& matrix, float* y) {
  check(matrix);
  if (tokens < 1) return;
  const Products& kernels = products(isa);
  const ActivationFormat format(matrix);
  RoundedRows rows(kernels, format, tokens, matrix.width);
  ActivationGroups groups(kernels, format, tokens, matrix.width);
  const int64_t panels = matrix.panels();
  // Neighbours in memory go to one thread: the processor fetches ahead within a stream.
  const int64_t piece = std::clamp<int64_t>(panels / (4 * team.size()), 1, 8);
  Counter rounded, multiplied;
  team.run([&](const Member& member) {
    for (int64_t g; (g = rounded.take()) < groups.count();) {
      for (int64_t t = groups.start(g); t < groups.start(g + 1); ++t)
        rows.round(t, x + t * matrix.width);
      groups.gather(g, rows, [](int64_t t) { return t; });
    }
    member.barrier();
    for (int64_t first; (first = multiplied.take(piece)) < panels;)
      by_panels(kernels, first, std::min(first + piece, panels), [&](int64_t p, int count) {
        multiply(kernels, matrix, p, count, groups, y);
      });
  });
}

}  // namespace trtcoder
