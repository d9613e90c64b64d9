#include "kernels/experts.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/activation_groups.h"
#include "kernels/routing.h"

namespace trtcoder {
namespace {

// One MLP's work.
struct Job {
  Mlp mlp;
  std::vector<int64_t> tokens;  // in rising order
  std::vector<float> weights;
  const RoundedRows* input = nullptr;  // where gate and up take rounded ones
  std::unique_ptr<ActivationGroups> inputs;
  std::unique_ptr<ActivationGroups> products;  // silu(gate) * up
};

// A part of a job: one of its groups, or one block of its inner width.
struct Piece {
  Job* job;
  int64_t index;
};

// The tokens' activations, in the formats that the MLPs take of rounded ones.
std::vector<std::unique_ptr<RoundedRows>> rounded_inputs(
    const Products& kernels, int64_t tokens, const std::optional<RoutedExperts>& routed,
    const std::optional<Mlp>& shared) {
  std::vector<std::unique_ptr<RoundedRows>> found;
  for (const Mlp* mlp : {shared ? &*shared : nullptr, routed ? &routed->experts.first : nullptr}) {
    if (!mlp || mlp->gate_up.is_float()) continue;
    const ActivationFormat format(mlp->gate_up);
    if (found.empty() || !(found[0]->format == format))
      found.push_back(std::make_unique<RoundedRows>(kernels, format, tokens, mlp->hidden()));
  }
  return found;
}

// Computes the router's logits and chooses each token's experts.
class Router {
 public:
  Router(const Products& kernels, const Routing& routing, int64_t tokens, float* logits)
      : experts(tokens * routing.top_k), weights(tokens * routing.top_k), kernels_(kernels),
        routing_(routing), tokens_(tokens), own_(logits ? 0 : tokens * routing.weights.experts),
        logits_(logits ? logits : own_.data()) {}

  // One thread's part of it.
  void run(const Member& member, const float* x) {
    const RouterWeights& rows = routing_.weights;
    const int64_t across = (rows.experts + 3) / 4, pieces = (tokens_ + 3) / 4 * across;
    for (int64_t i; (i = multiplied_.take()) < pieces;) {
      const int64_t t = i / across * 4, e = i % across * 4;
      kernels_.router(rows, e, int(std::min<int64_t>(4, rows.experts - e)), x + t * rows.width,
                      int(std::min<int64_t>(4, tokens_ - t)), logits_ + t * rows.experts + e,
                      rows.experts);
    }
    member.barrier();
    for (int64_t t; (t = chosen_.take()) < tokens_;)
      choose(kernels_, routing_, logits_ + t * rows.experts, experts.data() + t * routing_.top_k,
             weights.data() + t * routing_.top_k);
  }

  Buffer<int64_t> experts;
  Buffer<float> weights;

 private:
  const Products& kernels_;
  const Routing& routing_;
  const int64_t tokens_;
  Buffer<float> own_;
  float* const logits_;
  Counter multiplied_, chosen_;
};

// The jobs of all MLPs that have tokens, in the order in which a token's outputs are added.
std::vector<Job> plan(const Products& kernels, int64_t tokens, const Router* router,
                      const std::optional<RoutedExperts>& routed, const std::optional<Mlp>& shared,
                      const std::vector<std::unique_ptr<RoundedRows>>& inputs) {
  std::vector<Job> jobs;
  if (shared) {
    Job& job = jobs.emplace_back();
    job.mlp = *shared;
    for (int64_t t = 0; t < tokens; ++t) job.tokens.push_back(t);
    job.weights.assign(tokens, 1.0f);
  }
  if (routed) {
    const int64_t top_k = routed->routing.top_k;
    std::vector<Job> own(routed->experts.count);
    for (int64_t i = 0; i < tokens * top_k; ++i) {
      Job& job = own[router->experts.data()[i]];
      job.tokens.push_back(i / top_k);
      job.weights.push_back(router->weights.data()[i]);
    }
    for (int64_t e = 0; e < routed->experts.count; ++e) {
      if (own[e].tokens.empty()) continue;
      own[e].mlp = routed->experts[e];
      jobs.push_back(std::move(own[e]));
    }
  }
  for (Job& job : jobs) {
    const ActivationFormat format(job.mlp.gate_up), inner(job.mlp.down);
    const int64_t count = int64_t(job.tokens.size());
    for (const auto& rows : inputs)
      if (rows->format == format) job.input = rows.get();
    job.inputs = std::make_unique<ActivationGroups>(kernels, format, count, job.mlp.hidden());
    job.products = std::make_unique<ActivationGroups>(kernels, inner, count, job.mlp.inner());
  }
  return jobs;
}

// Brings the activations of a group's tokens together; `x` is those of all.
void gather(Job& job, int64_t group, const float* x) {
  ActivationGroups& inputs = *job.inputs;
  if (!inputs.is_float)
    return inputs.gather(group, *job.input, [&](int64_t t) { return job.tokens[t]; });
  const int64_t hidden = job.mlp.hidden();
  for (int t = 0; t < inputs.size(group); ++t)
    std::memcpy(inputs.row(group, t), x + job.tokens[inputs.start(group) + t] * hidden,
                hidden * sizeof(float));
}

// A thread's working memory for a block of silu(gate) * up: gate and up of sixteen columns by turns.
using GateRoom = Buffer<float>;
constexpr int64_t kGateRoom = kMaxGroup * 2 * kMaxBlock;

// Computes one block of silu(gate) * up for all tokens of a job, as down takes it.
void gate_block(const Products& kernels, Job& job, int64_t block, GateRoom& room) {
  const ActivationFormat format(job.mlp.down);
  const int64_t first = block * format.block / 8;
  const int64_t panels = std::min<int64_t>(format.block / 8, job.mlp.gate_up.panels() - first);
  const int64_t width = 2 * format.block;
  float* gate_up = room.data();
  // A last block may be wider than what is left.
  if (panels * 16 < width) std::memset(gate_up, 0, kGateRoom * sizeof(float));
  alignas(64) int8_t codes[kMaxBlock];
  RoundedBlock rounded{codes, 0, 0};
  for (int64_t g = 0; g < job.inputs->count(); ++g) {
    const Activations x = (*job.inputs)[g];
    by_panels(kernels, job.mlp.gate_up, 0, panels, [&](int64_t p, int count) {
      kernels.panels(job.mlp.gate_up, first + p, count, x, gate_up + p * 16, width);
    });
    for (int t = 0; t < x.tokens; ++t) {
      if (format.is_float()) {
        kernels.gate(gate_up + t * width, format.block, job.products->row(g, t, block));
        continue;
      }
      kernels.quantize_gated(gate_up + t * width, format.block, format, codes, &rounded.scale,
                             &rounded.offset);
      job.products->put(g, t, block, rounded);
    }
  }
}

// Computes `panels` panels of the output, from `first` on, for all tokens; `sums` is room for
// [tokens, panels * 16].
void down_panels(const Products& kernels, const std::vector<Job>& jobs, int64_t first,
                 int64_t panels, int64_t tokens, int64_t hidden, float* sums, float* y) {
  const int64_t width = panels * 16;
  std::memset(sums, 0, tokens * width * sizeof(float));
  alignas(64) float tile[kMaxGroup * kMaxPanels * 16];
  for (const Job& job : jobs)
    by_panels(kernels, job.mlp.down, 0, panels, [&](int64_t p, int count) {
      for (int64_t g = 0; g < job.products->count(); ++g) {
        const Activations x = (*job.products)[g];
        const int64_t start = job.products->start(g);
        kernels.panels(job.mlp.down, first + p, count, x, tile, count * 16);
        kernels.add_rows(tile, x.tokens, count * 16, job.weights.data() + start,
                         job.tokens.data() + start, sums + p * 16, width);
      }
    });
  const int64_t whole = std::min(width, hidden - first * 16);
  for (int64_t t = 0; t < tokens; ++t)
    std::memcpy(y + t * hidden + first * 16, sums + t * width, whole * sizeof(float));
}

void run_jobs(const Products& kernels, Team& team, std::vector<Job>& jobs, const float* x,
              int64_t tokens, int64_t hidden, float* y) {
  std::vector<Piece> groups, blocks;
  for (Job& job : jobs) {
    for (int64_t g = 0; g < job.inputs->count(); ++g) groups.push_back({&job, g});
    const int64_t across = ActivationFormat(job.mlp.down).blocks(job.mlp.inner());
    for (int64_t b = 0; b < across; ++b) blocks.push_back({&job, b});
  }
  // Neighbours in memory go to one thread: the processor fetches ahead within a stream.
  const int64_t panels = (hidden + 15) / 16, turns = 4 * team.size();
  const int64_t some_blocks = std::clamp<int64_t>(int64_t(blocks.size()) / turns, 1, 4);
  // All activations of a long batch pass for each of these: they come from a far cache.
  const int64_t most_panels = tokens > kMaxGroup ? 32 : 8;
  const int64_t some_panels = std::clamp<int64_t>(panels / turns, 1, most_panels);
  Counter gathered, gated, added;
  team.run([&](const Member& member) {
    for (int64_t i; (i = gathered.take()) < int64_t(groups.size());)
      gather(*groups[i].job, groups[i].index, x);
    member.barrier();
    GateRoom room(kGateRoom);
    for (int64_t first; (first = gated.take(some_blocks)) < int64_t(blocks.size());)
      for (int64_t i = first; i < std::min(first + some_blocks, int64_t(blocks.size())); ++i)
        gate_block(kernels, *blocks[i].job, blocks[i].index, room);
    member.barrier();
    Buffer<float> sums(tokens * some_panels * 16);
    for (int64_t first; (first = added.take(some_panels)) < panels;)
      down_panels(kernels, jobs, first, std::min(some_panels, panels - first), tokens, hidden,
                  sums.data(), y);
  });
}

}  // namespace

Mlp ExpertStack::operator[](int64_t expert) const {
  return {matrix_behind(first.gate_up, expert), matrix_behind(first.down, expert)};
}

void feed_forward(Isa isa, Team& team, const float* x, int64_t tokens,
                  const std::optional<RoutedExperts>& routed, const std::optional<Mlp>& shared,
                  float* y, float* logits) {
  check(routed, shared);
  if (tokens < 1) return;
  const Products& kernels = products(isa);
  const int64_t hidden = (shared ? *shared : routed->experts.first).hidden();
  const auto inputs = rounded_inputs(kernels, tokens, routed, shared);
  std::optional<Router> router;
  if (routed) router.emplace(kernels, routed->routing, tokens, logits);
  Counter rounded;
  team.run([&](const Member& member) {
    for (int64_t t; (t = rounded.take()) < tokens;)
      for (const auto& rows : inputs) rows->round(t, x + t * hidden);
    if (router) router->run(member, x);
  });
  std::vector<Job> jobs = plan(kernels, tokens, router ? &*router : nullptr, routed, shared, inputs);
  run_jobs(kernels, team, jobs, x, tokens, hidden, y);
}

}  // namespace trtcoder
