// Feed-forward layers: a dense MLP, and a mixture of experts with its router.
#pragma once

#include <optional>

#include "kernels/products.h"
#include "kernels/threads.h"

namespace trtcoder {

// down(silu(gate(x)) * up(x)); gate and up are [inner, hidden], down is [hidden, inner].
//
// Panels of gate and up alternate, so that one stream of memory gives both: `gate_up` is a matrix of
// twice the panels of gate, the even ones gate's.
struct Mlp {
  Matrix gate_up;
  Matrix down;

  int64_t hidden() const { return down.rows; }
  int64_t inner() const { return down.width; }
};

// The form of an MLP's `gate_up`.
inline int64_t gate_up_rows(int64_t inner) { return (inner + 15) / 16 * 32; }

// Mlps of one form, whose matrices lie behind each other in memory.
struct ExpertStack {
  Mlp first;
  int64_t count;

  Mlp operator[](int64_t expert) const;
};

// How a token's experts are chosen and weighed (DeepSeek-V2, arXiv 2405.04434, section 2.2).
//
// The experts fall into `groups` of equal size; only those of the `top_groups` whose best logit is
// largest are candidates. Of these the `top_k` largest logits are chosen; equal ones by their place.
// Their weights are the softmax over all experts, divided by the sum over the chosen ones if
// `normalize` is set, times `scale`.
struct Routing {
  RouterWeights weights;
  int64_t top_k;
  int64_t groups;
  int64_t top_groups;
  bool normalize;
  float scale;
};

struct RoutedExperts {
  Routing routing;
  ExpertStack experts;
};

// Throws std::invalid_argument for matrices and routing that do not fit together.
void check(const std::optional<RoutedExperts>& routed, const std::optional<Mlp>& shared);

// y = the shared MLP's output, plus those of each token's experts by weight; x and y are [tokens,
// hidden], float32. Either part may be missing. The router's logits [tokens, experts] are written
// to `logits`, if that is given. A row of y has the same bits whatever the other rows, the threads
// and the instruction set are: a token's outputs are added in the order shared, then experts by
// number. Throws as `check`.
void feed_forward(Isa isa, Team& team, const float* x, int64_t tokens,
                  const std::optional<RoutedExperts>& routed, const std::optional<Mlp>& shared,
                  float* y, float* logits);

}  // namespace trtcoder
