#include "kernels/norm.h"

#include <algorithm>
#include <cmath>

namespace trtcoder {
namespace {

// Rows that a thread takes at once; fewer are not worth waking another.
constexpr int64_t kRows = 4;

}  // namespace

float inverse_root_mean_square(const float* x, int64_t count, float epsilon) {
  float sums[16] = {};
  int64_t k = 0;
  for (; k + 16 <= count; k += 16)
    for (int i = 0; i < 16; ++i) sums[i] += x[k + i] * x[k + i];
  for (int i = 0; k < count; ++k, ++i) sums[i] += x[k] * x[k];
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return 1.0f / std::sqrt(sums[0] / static_cast<float>(count) + epsilon);
}

void rms_norm(Team& team, const float* x, const float* residual, int64_t tokens, int64_t width,
              const float* weight, float epsilon, float* total, float* y) {
  const auto normalize = [&](int64_t t) {
    const float* row = x + t * width;
    if (residual) {
      float* sum = total + t * width;
      for (int64_t i = 0; i < width; ++i) sum[i] = row[i] + residual[t * width + i];
      row = sum;
    }
    const float inverse = inverse_root_mean_square(row, width, epsilon);
    for (int64_t i = 0; i < width; ++i) y[t * width + i] = row[i] * inverse * weight[i];
  };
  if (tokens <= kRows) {
    for (int64_t t = 0; t < tokens; ++t) normalize(t);
    return;
  }
  Counter taken;
  team.run([&](const Member&) {
    for (int64_t first; (first = taken.take(kRows)) < tokens;)
      for (int64_t t = first; t < std::min(first + kRows, tokens); ++t) normalize(t);
  });
}

}  // namespace trtcoder
