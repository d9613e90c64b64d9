#include "ort/operators.h"

namespace ort {

trtcoder::Matrix with_data(trtcoder::Matrix form, int64_t count, const Call& call, size_t first) {
  const Tensor codes = call.input(first), scales = call.input(first + 1);
  const Tensor zeros = call.input(first + 2);
  form.codes = codes.as<const uint8_t>();
  form.scales = scales.as<const uint16_t>();
  form.zeros = zeros.as<const uint8_t>();
  trtcoder::check(form);
  const int64_t panels = count * form.panels();
  const ElementType type = form.is_float() ? kFloat : kUint8;
  if (codes.type != type)
    throw std::invalid_argument(std::string("codes: expected ") +
                                (form.is_float() ? "float32" : "uint8"));
  if (form.is_float()) {
    codes.expect("codes", {panels, form.width * 16});
    return form;
  }
  codes.expect("codes", {panels, form.panel_code_bytes()});
  scales.expect("scales", {panels, form.blocks() * 16});
  if (form.zeros) zeros.expect("zero points", {panels, form.panel_zero_bytes()});
  return form;
}

namespace {

constexpr const char* kDomain = "trtcoder";

Status* register_operators(SessionOptions* options) {
  OpDomain* domain = nullptr;
  if (Status* failed = CreateOpDomain::call(*g_table, kDomain, &domain)) return failed;
  for (const Op* op : {linear_op(), mlp_op(), experts_op(), latent_attention_op(), rms_norm_op()})
    if (Status* failed = AddOp::call(*g_table, domain, op)) return failed;
  return AddOpDomain::call(*g_table, options, domain);
}

}  // namespace
}  // namespace ort

// The runtime calls this by name when the library is registered with a session's options.
extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(
    ort::SessionOptions* options, const ort::TableSource* source) {
  ort::g_table = source->get(ort::kApiVersion);
  if (!ort::g_table) {
    // Every version has had these places, whatever the runtime.
    const ort::Table* oldest = source->get(1);
    return ort::CreateStatus::call(*oldest, ort::kFail,
                                   "trtcoder's kernels need a newer ONNX Runtime: version 18 of "
                                   "its C interface");
  }
  return ort::register_operators(options);
}
