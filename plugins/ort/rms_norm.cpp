#include "kernels/norm.h"

#include "ort/operators.h"

namespace ort {
namespace {

// Inputs: x [tokens, width]; the weight [width]; a residual [tokens, width], which may be left out.
// Outputs: the norm of their sum, and the sum, which may be left out where there is no residual.
// Attribute: epsilon.
struct RmsNorm {
  static constexpr const char* kName = "RmsNorm";
  static constexpr Argument kInputs[] = {{kFloat}, {kFloat}, {kFloat, true}};
  static constexpr Argument kOutputs[] = {{kFloat}, {kFloat, true}};

  explicit RmsNorm(const Attributes& attributes) : epsilon(attributes.number("epsilon")) {}

  void compute(const Call& call) {
    const Tensor x = call.input(0), weight = call.input(1), residual = call.input(2);
    const int64_t tokens = x.rank ? x.dims[0] : 0, width = weight.count();
    x.expect("x", {tokens, width});
    weight.expect("weight", {width});
    const bool has_residual = residual.rank > 0;
    if (has_residual) residual.expect("residual", {tokens, width});
    const Tensor y = call.output(0, {tokens, width});
    const Tensor total = has_residual ? call.output(1, {tokens, width}) : Tensor{};
    if (has_residual && !total.rank)
      throw std::invalid_argument("total: a sum with a residual is an output");
    trtcoder::rms_norm(trtcoder::process_team(), x.as<float>(), residual.as<float>(), tokens, width,
                       weight.as<float>(), epsilon, total.as<float>(), y.as<float>());
  }

  const float epsilon;
};

}  // namespace

const Op* rms_norm_op() { return describe<RmsNorm>(); }

}  // namespace ort
