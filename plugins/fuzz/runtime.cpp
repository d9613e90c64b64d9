#include "fuzz/runtime.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

extern "C" ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                          const ort::TableSource* source);

namespace ort {

struct Status {
  std::string message;
};
struct Value {
  fuzz::Tensor* tensor;
};
struct TensorInfo {
  const fuzz::Tensor* tensor;
};
struct KernelInfo {
  const fuzz::Node* node;
};
struct KernelContext {
  fuzz::Node* node;
  std::map<fuzz::Tensor*, Value> values;

  Value* value(fuzz::Tensor* tensor) { return &values.try_emplace(tensor, Value{tensor}).first->second; }
};
struct OpDomain {};

}  // namespace ort

namespace fuzz {
namespace {

using namespace ort;

std::vector<const Op*> g_ops;

Status* failed(const std::string& message) { return new Status{message}; }

template <class Map, class T>
Status* attribute(const Map& map, const char* name, T* out) {
  const auto found = map.find(name);
  if (found == map.end()) return failed(std::string("no attribute ") + name);
  *out = found->second;
  return nullptr;
}

Status* get_output(KernelContext* context, size_t index, const int64_t* sizes, size_t rank,
                   Value** out) {
  Node& node = *context->node;
  const std::vector<int64_t> shape(sizes, sizes + rank);
  for (int64_t size : shape)
    if (size < 0) return failed("a negative size");
  const auto alias = node.aliases.find(index);
  if (alias != node.aliases.end()) {
    Tensor& input = node.inputs[alias->second];
    if (input.shape != shape) return failed("an alias of another shape");
    *out = context->value(&input);
    return nullptr;
  }
  auto found = node.outputs.find(index);
  if (found == node.outputs.end()) return *out = nullptr, nullptr;  // left out
  found->second = tensor(kFloat, shape);
  *out = context->value(&found->second);
  return nullptr;
}

Table make_table() {
  Table table{};
  const auto set = [&]<size_t place, class Result, class... Arguments>(
                       Entry<place, Result (*)(Arguments...)>, Result (*function)(Arguments...)) {
    table.entry[place] = reinterpret_cast<void*>(function);
  };
  set(CreateStatus{}, +[](ErrorCode, const char* message) { return failed(message); });
  set(GetErrorMessage{}, +[](const Status* status) { return status->message.c_str(); });
  set(ReleaseStatus{}, +[](Status* status) { delete status; });
  set(CreateOpDomain{}, +[](const char*, OpDomain** out) -> Status* {
    static OpDomain domain;
    *out = &domain;
    return nullptr;
  });
  set(AddOp{}, +[](OpDomain*, const Op* op) -> Status* {
    g_ops.push_back(op);
    return nullptr;
  });
  set(AddOpDomain{}, +[](SessionOptions*, OpDomain*) -> Status* { return nullptr; });
  set(GetTensorData{}, +[](const Value* value, void** out) -> Status* {
    *out = value->tensor->memory.data();
    return nullptr;
  });
  set(GetTensorInfo{}, +[](const Value* value, TensorInfo** out) -> Status* {
    *out = new TensorInfo{value->tensor};
    return nullptr;
  });
  set(ReleaseTensorInfo{}, +[](TensorInfo* info) { delete info; });
  set(GetElementType{}, +[](const TensorInfo* info, ElementType* out) -> Status* {
    *out = info->tensor->type;
    return nullptr;
  });
  set(GetDimensionCount{}, +[](const TensorInfo* info, size_t* out) -> Status* {
    *out = info->tensor->shape.size();
    return nullptr;
  });
  set(GetDimensions{}, +[](const TensorInfo* info, int64_t* out, size_t count) -> Status* {
    std::memcpy(out, info->tensor->shape.data(), count * sizeof(int64_t));
    return nullptr;
  });
  set(GetFloatAttribute{}, +[](const KernelInfo* info, const char* name, float* out) {
    return attribute(info->node->numbers, name, out);
  });
  set(GetIntAttribute{}, +[](const KernelInfo* info, const char* name, int64_t* out) {
    return attribute(info->node->integers, name, out);
  });
  set(GetInputCount{}, +[](const KernelContext* context, size_t* out) -> Status* {
    *out = context->node->inputs.size();
    return nullptr;
  });
  set(GetInput{},
      +[](const KernelContext* context, size_t index, const Value** out) -> Status* {
        std::vector<Tensor>& inputs = context->node->inputs;
        const bool is_there = index < inputs.size() && inputs[index].is_there;
        *out = is_there ? const_cast<KernelContext*>(context)->value(&inputs[index]) : nullptr;
        return nullptr;
      });
  set(GetOutput{}, &get_output);
  return table;
}

const Table g_fake = make_table();

const Op* find(const char* name) {
  if (g_ops.empty()) {
    static const TableSource source{[](uint32_t) { return &g_fake; }, [] { return "fuzz"; }};
    if (RegisterCustomOps(nullptr, &source)) std::abort();
  }
  for (const Op* op : g_ops)
    if (!std::strcmp(op->name(op), name)) return op;
  std::abort();
}

// Takes a message out of a status.
std::string message(Status* status) {
  const std::string text = status ? status->message : "";
  delete status;
  return text;
}

}  // namespace

size_t element_bytes(ElementType type) {
  switch (type) {
    case kFloat: return 4;
    case kInt64: return 8;
    case kHalf:
    case kBfloat: return 2;
    default: return 1;
  }
}

Tensor tensor(ElementType type, std::vector<int64_t> shape, bool is_weight) {
  Tensor made;
  made.type = type;
  made.shape = std::move(shape);
  const size_t size = element_bytes(type);
  made.memory = GuardedMemory(size_t(made.count()) * size, is_weight ? 64 : size);
  return made;
}

std::string run(const char* name, Node& node) {
  const Op* op = find(name);
  const KernelInfo info{&node};
  void* kernel = nullptr;
  const std::string refused = message(op->create_kernel_or_fail(op, &g_fake, &info, &kernel));
  if (!refused.empty()) return refused;
  KernelContext context{&node, {}};
  const std::string problem = message(op->compute_or_fail(kernel, &context));
  op->destroy_kernel(kernel);
  return problem;
}

}  // namespace fuzz
