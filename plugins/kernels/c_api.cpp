#include "kernels/c_api.h"

#include <stdexcept>
#include <string>

#include "kernels/experts.h"
#include "kernels/guarded.h"
#include "kernels/isa.h"
#include "kernels/linear.h"
#include "kernels/threads.h"

namespace trtcoder {
namespace {

Matrix view(const trtcoder_matrix& m) {
  return {m.codes, m.scales, m.zeros, m.rows, m.width, m.bits, m.block};
}

Mlp view(const trtcoder_mlp& m) { return {view(m.gate_up), view(m.down)}; }

RoutedExperts view(const trtcoder_mlp& first, const trtcoder_routing& r) {
  const RouterWeights weights{r.rows, r.is_bfloat != 0, r.experts, first.down.rows};
  return {{weights, r.top_k, r.groups, r.top_groups, r.normalize != 0, r.scale},
          {view(first), r.experts}};
}

}  // namespace
}  // namespace trtcoder

using namespace trtcoder;

int32_t trtcoder_operators() { return 3; }

const char* trtcoder_isas() {
  static const std::string names = [] {
    std::string found;
    for (Isa isa : kIsas) {
      if (!isa_available(isa)) continue;
      if (!found.empty()) found += ' ';
      found += isa_name(isa);
    }
    return found;
  }();
  return names.c_str();
}

const char* trtcoder_isa() { return isa_name(isa_chosen()); }

const char* trtcoder_set_threads(int32_t count) {
  return guarded([&] {
    if (count < 1) throw std::invalid_argument("threads: " + std::to_string(count) + " < 1");
    process_team().resize(count);
  });
}

const char* trtcoder_linear(const char* isa, const float* x, int64_t tokens,
                            const trtcoder_matrix* matrix, float* y) {
  return guarded([&] { linear(isa_named(isa), process_team(), x, tokens, view(*matrix), y); });
}

const char* trtcoder_feed_forward(const char* isa, const float* x, int64_t tokens,
                                  const trtcoder_mlp* shared, const trtcoder_mlp* experts,
                                  const trtcoder_routing* routing, float* y, float* logits) {
  return guarded([&] {
    std::optional<Mlp> dense;
    std::optional<RoutedExperts> routed;
    if (shared) dense = view(*shared);
    if (experts && routing) routed = view(*experts, *routing);
    feed_forward(isa_named(isa), process_team(), x, tokens, routed, dense, y, logits);
  });
}
