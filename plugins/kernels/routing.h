// Which experts a token goes to.
#pragma once

#include "kernels/experts.h"

namespace trtcoder {

inline constexpr int64_t kMaxExperts = 512;

// Chooses a token's experts by its logits: `top_k` of them, in rising order, with their weights.
void choose(const Products& kernels, const Routing& routing, const float* logits, int64_t* experts,
            float* weights);

}  // namespace trtcoder
