#include "kernels/linear.h"

#include "ort/operators.h"

namespace ort {
namespace {

// y = x W^T; x [tokens, K], W [N, K] as `kernels/matrix.h` lays it out.
//
// Inputs: x; codes, scales and zeros (optional) of W, of float32 codes alone. Attributes: N, K, bits,
// block; 32 bits and a block of 0 are float32.
struct Linear {
  static constexpr const char* kName = "Linear";
  static constexpr Argument kInputs[] = {{kFloat}, {kAny}, {kHalf, true}, {kUint8, true}};
  static constexpr Argument kOutputs[] = {{kFloat}};

  explicit Linear(const Attributes& attributes) {
    matrix.rows = attributes.size("N");
    matrix.width = attributes.size("K");
    matrix.bits = int(attributes.size("bits"));
    matrix.block = int(attributes.size("block"));
  }

  void compute(const Call& call) {
    const Tensor x = call.input(0);
    const int64_t tokens = x.rank ? x.dims[0] : 0;
    x.expect("x", {tokens, matrix.width});
    const trtcoder::Matrix weight = with_data(matrix, 1, call, 1);
    const Tensor y = call.output(0, {tokens, weight.rows});
    trtcoder::linear(trtcoder::isa_chosen(), trtcoder::process_team(), x.as<float>(), tokens,
                     weight, y.as<float>());
  }

  trtcoder::Matrix matrix{};
};

}  // namespace

const Op* linear_op() { return describe<Linear>(); }

}  // namespace ort
