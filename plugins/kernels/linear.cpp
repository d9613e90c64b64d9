#include "kernels/linear.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/activation_groups.h"
#include "kernels/products.h"

namespace trtcoder {

void check(const Matrix& m) {
  const auto refuse = [](const std::string& what) { throw std::invalid_argument(what); };
  if (m.bits != 4 && m.bits != 8) refuse("bits: " + std::to_string(m.bits) + ", expected 4 or 8");
  if (m.block != 32 && m.block != 64 && m.block != 128)
    refuse("block: " + std::to_string(m.block) + ", expected 32, 64 or 128");
  if (m.rows < 1 || m.width < 1)
    refuse("matrix: " + std::to_string(m.rows) + " x " + std::to_string(m.width) +
           ", expected at least one row and column");
  if (!m.codes || !m.scales) refuse("matrix: codes or scales are missing");
}

void linear(Isa isa, Team& team, const float* x, int64_t tokens, const Matrix& matrix, float* y) {
  check(matrix);
  if (tokens < 1) return;
  const Products& kernels = products(isa);
  ActivationGroups groups(kernels, ActivationFormat(matrix), matrix.width, tokens);
  const int64_t panels = matrix.panels();
  // Some panels for all tokens are one piece: their weights stay in the cache meanwhile.
  const int64_t piece = tokens == 1 ? 2 : 4;
  Counter quantized, multiplied;
  team.run([&](const Member& member) {
    for (int64_t g; (g = quantized.take()) < groups.count();)
      groups.fill(g, [&](int64_t t) { return x + t * matrix.width; });
    member.barrier();
    float tile[16 * 16];
    for (int64_t first; (first = multiplied.take(piece)) < panels;)
      for (int64_t g = 0; g < groups.count(); ++g) {
        const Activations some = groups[g];
        const int64_t start = groups.first_token(g);
        for (int64_t p = first; p < std::min(first + piece, panels); ++p) {
          float* out = y + start * matrix.rows + p * 16;
          const int64_t rows = std::min<int64_t>(16, matrix.rows - p * 16);
          if (rows == 16) {
            kernels.panel(matrix, p, some, out, matrix.rows);
            continue;
          }
          kernels.panel(matrix, p, some, tile, 16);
          for (int t = 0; t < some.tokens; ++t)
            std::memcpy(out + t * matrix.rows, tile + t * 16, rows * sizeof(float));
        }
      }
  });
}

}  // namespace trtcoder
