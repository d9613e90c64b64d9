#include "kernels/linear.h"

#include <algorithm>
#include <cstring>

#include "kernels/activation_groups.h"
#include "kernels/products.h"

namespace trtcoder {
namespace {

// Neighbours in memory go to one thread: the processor fetches ahead within a stream.
int64_t panels_of_piece(int64_t panels, const Team& team) {
  return std::clamp<int64_t>(panels / (4 * team.size()), 1, 8);
}

// Multiplies some panels with a group of tokens; `y` is the first one's row.
void multiply_group(const Products& kernels, const Matrix& matrix, int64_t first, int count,
                    const Activations& x, float* y) {
  const int64_t rows = matrix.rows, whole = std::min<int64_t>(count * 16, rows - first * 16);
  float* out = y + first * 16;
  if (whole == count * 16) return kernels.panels(matrix, first, count, x, out, rows);
  float tile[kMaxGroup * kMaxPanels * 16];
  kernels.panels(matrix, first, count, x, tile, count * 16);
  for (int t = 0; t < x.tokens; ++t)
    std::memcpy(out + t * rows, tile + t * count * 16, whole * sizeof(float));
}

// Multiplies some panels with all tokens; their codes stay in a near cache meanwhile.
void multiply(const Products& kernels, const Matrix& matrix, int64_t first, int count,
              const ActivationGroups& groups, float* y) {
  for (int64_t g = 0; g < groups.count(); ++g)
    multiply_group(kernels, matrix, first, count, groups[g], y + groups.start(g) * matrix.rows);
}

// With a float32 matrix the tokens' rows are multiplied where they lie. A group passes all panels
// of a piece before the next one comes, so that what it writes of a row lies together; the panels
// stay in a near cache.
void float_linear(const Products& kernels, Team& team, const float* x, int64_t tokens,
                  const Matrix& matrix, float* y) {
  constexpr int64_t kNear = 128 << 10;
  const int64_t panels = matrix.panels(), width = matrix.width;
  const int64_t most = std::max<int64_t>(2, kNear / matrix.panel_code_bytes());
  int64_t piece = std::min(panels_of_piece(panels, team), most);
  // Of many tokens two panels are multiplied at once.
  if (piece > 1) piece -= piece % 2;
  Counter multiplied;
  team.run([&](const Member&) {
    for (int64_t first; (first = multiplied.take(piece)) < panels;)
      for (int64_t t = 0, size; t < tokens; t += size) {
        size = kernels.float_group_size(tokens - t);
        const Activations rows{.tokens = int(size), .rows = x + t * width, .stride = width};
        by_panels(kernels, matrix, first, std::min(first + piece, panels),
                  [&](int64_t p, int count) {
          multiply_group(kernels, matrix, p, count, rows, y + t * matrix.rows);
        });
      }
  });
}

}  // namespace

void linear(Isa isa, Team& team, const float* x, int64_t tokens, const Matrix& matrix, float* y) {
  check(matrix);
  if (tokens < 1) return;
  const Products& kernels = products(isa);
  if (matrix.is_float()) return float_linear(kernels, team, x, tokens, matrix, y);
  const ActivationFormat format(matrix);
  RoundedRows rows(kernels, format, tokens, matrix.width);
  ActivationGroups groups(kernels, format, tokens, matrix.width);
  const int64_t panels = matrix.panels();
  const int64_t piece = panels_of_piece(panels, team);
  Counter rounded, multiplied;
  team.run([&](const Member& member) {
    for (int64_t g; (g = rounded.take()) < groups.count();) {
      for (int64_t t = groups.start(g); t < groups.start(g + 1); ++t)
        rows.round(t, x + t * matrix.width);
      groups.gather(g, rows, [](int64_t t) { return t; });
    }
    member.barrier();
    for (int64_t first; (first = multiplied.take(piece)) < panels;)
      by_panels(kernels, matrix, first, std::min(first + piece, panels), [&](int64_t p, int count) {
        multiply(kernels, matrix, p, count, groups, y);
      });
  });
}

}  // namespace trtcoder
