// Custom operators of ONNX Runtime as C++ classes.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/guarded.h"
#include "ort/abi.h"

namespace ort {

// The runtime's functions; set when the library is registered.
extern const Table* g_table;

// Throws what the runtime says and releases it.
void check(Status* status);

// An input or output; `data` is NULL for an optional input that is left out.
struct Tensor {
  void* data = nullptr;
  ElementType type = kAny;
  size_t rank = 0;
  int64_t dims[8] = {};

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t count() const;
  // "[4, 2048]"
  std::string shape() const;
  // Throws std::invalid_argument, which names `what`, unless the shape is this one.
  void expect(const char* what, std::initializer_list<int64_t> shape) const;
};

// One call of an operator.
class Call {
 public:
  explicit Call(KernelContext* context) : context_(context) {}
  Tensor input(size_t index) const;
  Tensor output(size_t index, std::initializer_list<int64_t> shape) const;

 private:
  KernelContext* context_;
};

// A node's attributes.
class Attributes {
 public:
  explicit Attributes(const KernelInfo* info) : info_(info) {}
  int64_t integer(const char* name) const;
  // One that counts something: products of two of them are in range. Throws std::invalid_argument.
  int64_t size(const char* name) const;
  float number(const char* name) const;

 private:
  const KernelInfo* info_;
};

struct Argument {
  ElementType type;
  bool optional = false;
};

// An input, and an output of its form that may be bound to the same buffer.
struct Alias {
  int input;
  int output;
};

// Tells the runtime of a kernel's aliases, in two arrays of its own.
template <class Kernel>
size_t list_aliases(int** inputs, int** outputs) {
  constexpr size_t count = std::size(Kernel::kAliases);
  struct Lists {
    int inputs[count];
    int outputs[count];
  };
  static Lists lists = [] {
    Lists filled{};
    for (size_t i = 0; i < count; ++i) {
      filled.inputs[i] = Kernel::kAliases[i].input;
      filled.outputs[i] = Kernel::kAliases[i].output;
    }
    return filled;
  }();
  *inputs = lists.inputs;
  *outputs = lists.outputs;
  return count;
}

// Gives each aliased output the form of its input: the type of what is `kAny` is known by that.
template <class Kernel>
Status* infer_forms(const Op*, ShapeContext* context) {
  const char* problem = trtcoder::guarded([&] {
    size_t inputs = 0;
    check(GetShapeInputCount::call(*g_table, static_cast<const ShapeContext*>(context), &inputs));
    for (const Alias& alias : Kernel::kAliases) {
      if (size_t(alias.input) >= inputs) continue;
      TensorInfo* form = nullptr;
      check(GetInputForm::call(*g_table, static_cast<const ShapeContext*>(context),
                               size_t(alias.input), &form));
      if (!form) continue;
      check(SetOutputForm::call(*g_table, context, size_t(alias.output),
                                static_cast<const TensorInfo*>(form)));
    }
  });
  return problem ? CreateStatus::call(*g_table, kFail, problem) : nullptr;
}

// Describes an operator to the runtime. A kernel class has `kName`, `kInputs` and `kOutputs`
// (arrays of `Argument`), a constructor that takes `Attributes`, and `void compute(const Call&)`; it may
// have `kAliases`.
template <class Kernel>
const Op* describe() {
  static const Op op = [] {
    Op o{};
    o.version = kApiVersion;
    o.name = [](const Op*) { return Kernel::kName; };
    o.execution_provider = [](const Op*) { return "CPUExecutionProvider"; };
    o.input_count = [](const Op*) { return std::size(Kernel::kInputs); };
    o.output_count = [](const Op*) { return std::size(Kernel::kOutputs); };
    o.input_type = [](const Op*, size_t i) { return Kernel::kInputs[i].type; };
    o.output_type = [](const Op*, size_t i) { return Kernel::kOutputs[i].type; };
    o.input_characteristic = [](const Op*, size_t i) {
      return Kernel::kInputs[i].optional ? kOptional : kRequired;
    };
    o.output_characteristic = [](const Op*, size_t i) {
      return Kernel::kOutputs[i].optional ? kOptional : kRequired;
    };
    o.input_memory = [](const Op*, size_t) { return 0; };
    o.variadic_input_minimum = o.variadic_input_same_type = o.variadic_output_minimum =
        o.variadic_output_same_type = [](const Op*) { return 0; };
    o.first_version = [](const Op*) { return 1; };
    o.last_version = [](const Op*) { return 0x7fffffff; };
    o.create_kernel_or_fail = [](const Op*, const Table*, const KernelInfo* info, void** kernel) {
      const char* problem =
          trtcoder::guarded([&] { *kernel = new Kernel(Attributes(info)); });
      return problem ? CreateStatus::call(*g_table, kFail, problem) : nullptr;
    };
    o.compute_or_fail = [](void* kernel, KernelContext* context) -> Status* {
      const char* problem = trtcoder::guarded(
          [&] { static_cast<Kernel*>(kernel)->compute(Call(context)); });
      return problem ? CreateStatus::call(*g_table, kInvalidArgument, problem) : nullptr;
    };
    if constexpr (requires { Kernel::kAliases; }) {
      o.infer_shapes = infer_forms<Kernel>;
      o.aliases = list_aliases<Kernel>;
      o.release_aliases = [](int*, int*) {};
    }
    o.destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    return o;
  }();
  return &op;
}

}  // namespace ort
