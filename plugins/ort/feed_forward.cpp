#include "kernels/experts.h"

#include "ort/operators.h"

namespace ort {
namespace {

// One role of a matrix (experts' or shared; gate and up, or down), as the attributes give it.
trtcoder::Matrix form_of(const Attributes& attributes, const char* role, int64_t rows,
                         int64_t width) {
  trtcoder::Matrix form{};
  form.rows = rows;
  form.width = width;
  form.bits = int(attributes.size((std::string(role) + "_bits").c_str()));
  form.block = int(attributes.size((std::string(role) + "_block").c_str()));
  return form;
}

trtcoder::Mlp mlp_of(const Attributes& attributes, const std::string& role, int64_t hidden,
                     int64_t inner) {
  trtcoder::Mlp mlp{};
  mlp.gate_up =
      form_of(attributes, (role + "_gate_up").c_str(), trtcoder::gate_up_rows(inner), hidden);
  mlp.down = form_of(attributes, (role + "_down").c_str(), hidden, inner);
  return mlp;
}

// Fills in an MLP's data, or that of `count` of them, from six inputs: codes, scales and zeros
// (may be left out) of gate and up, and of down; of float32 matrices codes alone.
void fill(trtcoder::Mlp& mlp, int64_t count, const Call& call, size_t first) {
  mlp.gate_up = with_data(mlp.gate_up, count, call, first);
  mlp.down = with_data(mlp.down, count, call, first + 3);
}

constexpr Argument kWeights[] = {{kAny}, {kHalf, true}, {kUint8, true}};

// A dense MLP. Inputs: x; gate and up, down (see `fill`). Attributes: hidden, inner,
// shared_gate_up_bits and _block, shared_down_bits and _block.
struct DenseMlp {
  static constexpr const char* kName = "Mlp";
  static constexpr Argument kInputs[] = {{kFloat},    kWeights[0], kWeights[1], kWeights[2],
                                         kWeights[0], kWeights[1], kWeights[2]};
  static constexpr Argument kOutputs[] = {{kFloat}};

  explicit DenseMlp(const Attributes& attributes)
      : hidden(attributes.size("hidden")),
        form(mlp_of(attributes, "shared", hidden, attributes.size("inner"))) {}

  void compute(const Call& call) {
    const Tensor x = call.input(0);
    const int64_t tokens = x.rank ? x.dims[0] : 0;
    x.expect("x", {tokens, hidden});
    trtcoder::Mlp mlp = form;
    fill(mlp, 1, call, 1);
    const Tensor y = call.output(0, {tokens, hidden});
    trtcoder::feed_forward(trtcoder::isa_chosen(), trtcoder::process_team(), x.as<float>(), tokens,
                           {}, mlp, y.as<float>(), nullptr);
  }

  const int64_t hidden;
  const trtcoder::Mlp form;
};

// Routed experts, and a shared MLP where `shared_inner` is not 0. Inputs: x; the router's rows
// [experts, hidden], float32 or bfloat16; the experts' gate and up, and down; the shared MLP's.
// Outputs: y; the router's logits [tokens, experts], which may be left out.
struct Experts {
  static constexpr const char* kName = "Experts";
  static constexpr Argument kInputs[] = {
      {kFloat},      {kAny},        kWeights[0],    kWeights[1],    kWeights[2],
      kWeights[0],   kWeights[1],   kWeights[2],    {kAny, true},   {kHalf, true},
      {kUint8, true}, {kAny, true}, {kHalf, true}, {kUint8, true}};
  static constexpr Argument kOutputs[] = {{kFloat}, {kFloat, true}};

  explicit Experts(const Attributes& attributes)
      : hidden(attributes.size("hidden")), count(attributes.size("experts")),
        form(mlp_of(attributes, "experts", hidden, attributes.size("inner"))) {
    routing.top_k = attributes.size("top_k");
    routing.groups = attributes.size("groups");
    routing.top_groups = attributes.size("top_groups");
    routing.normalize = attributes.size("normalize") != 0;
    routing.scale = attributes.number("scale");
    if (const int64_t inner = attributes.size("shared_inner"))
      shared_form = mlp_of(attributes, "shared", hidden, inner);
  }

  void compute(const Call& call) {
    const Tensor x = call.input(0), rows = call.input(1);
    const int64_t tokens = x.rank ? x.dims[0] : 0;
    x.expect("x", {tokens, hidden});
    rows.expect("router", {count, hidden});
    if (rows.type != kFloat && rows.type != kBfloat)
      throw std::invalid_argument("router: expected float32 or bfloat16");
    trtcoder::RoutedExperts routed{routing, {form, count}};
    routed.routing.weights = {rows.data, rows.type == kBfloat, count, hidden};
    fill(routed.experts.first, count, call, 2);
    std::optional<trtcoder::Mlp> shared = shared_form;
    if (shared) fill(*shared, 1, call, 8);
    const Tensor y = call.output(0, {tokens, hidden}), logits = call.output(1, {tokens, count});
    trtcoder::feed_forward(trtcoder::isa_chosen(), trtcoder::process_team(), x.as<float>(), tokens,
                           routed, shared, y.as<float>(), logits.as<float>());
  }

  const int64_t hidden;
  const int64_t count;
  const trtcoder::Mlp form;
  trtcoder::Routing routing{};
  std::optional<trtcoder::Mlp> shared_form;
};

}  // namespace

const Op* mlp_op() { return describe<DenseMlp>(); }
const Op* experts_op() { return describe<Experts>(); }

}  // namespace ort
