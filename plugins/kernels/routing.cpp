#include "kernels/routing.h"

namespace trtcoder {
namespace {

// Marks the `count` largest of the values that are `open`; the first of equal ones. NaN is taken
// only when nothing else is left.
void take_largest(const float* values, int64_t size, const bool* open, int64_t count,
                  bool* taken) {
  for (int64_t n = 0; n < count; ++n) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i) {
      if (!open[i] || taken[i]) continue;
      if (best < 0 || values[i] > values[best] || values[best] != values[best]) best = i;
    }
    taken[best] = true;
  }
}

}  // namespace

void choose(const Products& kernels, const Routing& routing, const float* logits, int64_t* experts,
            float* weights) {
  const int64_t count = routing.weights.experts, size = count / routing.groups;
  bool open[kMaxExperts], chosen[kMaxExperts] = {};
  for (int64_t e = 0; e < count; ++e) open[e] = true;
  if (routing.top_groups < routing.groups) {
    float best[kMaxExperts];
    bool kept[kMaxExperts] = {};
    for (int64_t g = 0; g < routing.groups; ++g) {
      best[g] = logits[g * size];
      for (int64_t e = g * size; e < (g + 1) * size; ++e)
        if (logits[e] > best[g]) best[g] = logits[e];
    }
    take_largest(best, routing.groups, open, routing.top_groups, kept);
    for (int64_t e = 0; e < count; ++e) open[e] = kept[e / size];
  }
  take_largest(logits, count, open, routing.top_k, chosen);
  float probabilities[kMaxExperts];
  kernels.softmax(logits, count, probabilities);
  float total = 0.0f;
  for (int64_t e = 0, k = 0; e < count; ++e) {
    if (!chosen[e]) continue;
    experts[k] = e;
    weights[k++] = probabilities[e];
    total += probabilities[e];
  }
  for (int64_t k = 0; k < routing.top_k; ++k) {
    if (routing.normalize) weights[k] /= total;
    weights[k] *= routing.scale;
  }
}

}  // namespace trtcoder
