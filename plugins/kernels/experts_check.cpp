#include <stdexcept>
#include <string>

#include "kernels/experts.h"
#include "kernels/routing.h"

namespace trtcoder {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void check_mlp(const Mlp& mlp) {
  check(mlp.gate_up);
  check(mlp.down);
  if (mlp.gate_up.is_float() != mlp.down.is_float())
    refuse("mlp: gate and up of " + std::to_string(mlp.gate_up.bits) + " bits, down of " +
           std::to_string(mlp.down.bits) + ": both are float32, or neither");
  if (mlp.gate_up.rows == gate_up_rows(mlp.inner()) && mlp.gate_up.width == mlp.hidden()) return;
  const auto shape = [](const Matrix& m) {
    return std::to_string(m.rows) + " x " + std::to_string(m.width);
  };
  refuse("mlp: gate and up " + shape(mlp.gate_up) + ", down " + shape(mlp.down) +
         ": they do not fit together");
}

void check_routing(const Routing& routing, const ExpertStack& experts) {
  const int64_t count = routing.weights.experts, groups = routing.groups;
  if (count != experts.count || count < 1 || count > kMaxExperts)
    refuse("router: " + std::to_string(count) + " rows for " + std::to_string(experts.count) +
           " experts, of which there may be " + std::to_string(kMaxExperts));
  if (!routing.weights.rows || routing.weights.width != experts.first.hidden())
    refuse("router: its width is " + std::to_string(routing.weights.width) + ", expected " +
           std::to_string(experts.first.hidden()));
  if (groups < 1 || count % groups || routing.top_groups < 1 || routing.top_groups > groups)
    refuse("router: " + std::to_string(routing.top_groups) + " of " + std::to_string(groups) +
           " groups of " + std::to_string(count) + " experts");
  if (routing.top_k < 1 || routing.top_k > count / groups * routing.top_groups)
    refuse("router: the best " + std::to_string(routing.top_k) + " of " +
           std::to_string(count / groups * routing.top_groups) + " experts");
}

}  // namespace

void check(const std::optional<RoutedExperts>& routed, const std::optional<Mlp>& shared) {
  if (!routed && !shared) refuse("feed forward: neither experts nor a shared mlp");
  if (shared) check_mlp(*shared);
  if (routed) {
    check_mlp(routed->experts.first);
    check_routing(routed->routing, routed->experts);
  }
  if (routed && shared && routed->experts.first.hidden() != shared->hidden())
    refuse("feed forward: experts of width " + std::to_string(routed->experts.first.hidden()) +
           ", a shared mlp of width " + std::to_string(shared->hidden()));
}

}  // namespace trtcoder
