// The part of ONNX Runtime's C interface that custom operators need, in our own words.
//
// No package ships its header. A library gets a table of functions whose entries never move: newer
// releases append to it. Entries are named here by their place, and asked for by the version of the
// interface in which the last of them appeared, so that a runtime that lacks one refuses the
// library instead of calling something else.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

inline constexpr uint32_t kApiVersion = 18;
inline constexpr size_t kTableSize = 280;

// Objects of the runtime.
struct Status;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct OpDomain;
struct ShapeContext;

enum ElementType : int {
  kAny = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt64 = 7,
  kHalf = 10,
  kBfloat = 16
};
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
// Of inputs and outputs.
enum Characteristic : int { kRequired = 0, kOptional = 1 };

struct Table {
  void* entry[kTableSize];
};

struct TableSource {
  const Table* (*get)(uint32_t version);  // NULL where the runtime is older
  const char* (*runtime_version)();
};

// One function of the table: its place and its signature.
template <size_t place, class Function>
struct Entry {
  static_assert(place < kTableSize);
  template <class... Arguments>
  static auto call(const Table& table, Arguments... arguments) {
    return reinterpret_cast<Function>(table.entry[place])(arguments...);
  }
};

using CreateStatus = Entry<0, Status* (*)(ErrorCode, const char*)>;
using GetErrorMessage = Entry<2, const char* (*)(const Status*)>;
using CreateOpDomain = Entry<26, Status* (*)(const char*, OpDomain**)>;
using AddOp = Entry<27, Status* (*)(OpDomain*, const struct Op*)>;
using AddOpDomain = Entry<28, Status* (*)(SessionOptions*, OpDomain*)>;
using GetTensorData = Entry<51, Status* (*)(const Value*, void**)>;
using GetElementType = Entry<60, Status* (*)(const TensorInfo*, ElementType*)>;
using GetDimensionCount = Entry<61, Status* (*)(const TensorInfo*, size_t*)>;
using GetDimensions = Entry<62, Status* (*)(const TensorInfo*, int64_t*, size_t)>;
using GetTensorInfo = Entry<65, Status* (*)(const Value*, TensorInfo**)>;
using GetFloatAttribute = Entry<85, Status* (*)(const KernelInfo*, const char*, float*)>;
using GetIntAttribute = Entry<86, Status* (*)(const KernelInfo*, const char*, int64_t*)>;
using GetInputCount = Entry<88, Status* (*)(const KernelContext*, size_t*)>;
using GetInput = Entry<90, Status* (*)(const KernelContext*, size_t, const Value**)>;
using GetOutput = Entry<91, Status* (*)(KernelContext*, size_t, const int64_t*, size_t, Value**)>;
using ReleaseStatus = Entry<93, void (*)(Status*)>;
using ReleaseTensorInfo = Entry<99, void (*)(TensorInfo*)>;
using GetNodeName = Entry<244, Status* (*)(const KernelInfo*, char*, size_t*)>;
using GetShapeInputCount = Entry<267, Status* (*)(const ShapeContext*, size_t*)>;
// The context keeps what it returns.
using GetInputForm = Entry<268, Status* (*)(const ShapeContext*, size_t, TensorInfo**)>;
using SetOutputForm = Entry<270, Status* (*)(ShapeContext*, size_t, const TensorInfo*)>;

// An operator as the runtime wants it described; it keeps the pointer.
struct Op {
  uint32_t version;
  void* (*create_kernel)(const Op*, const Table*, const KernelInfo*);
  const char* (*name)(const Op*);
  const char* (*execution_provider)(const Op*);
  ElementType (*input_type)(const Op*, size_t);
  size_t (*input_count)(const Op*);
  ElementType (*output_type)(const Op*, size_t);
  size_t (*output_count)(const Op*);
  void (*compute)(void*, KernelContext*);
  void (*destroy_kernel)(void*);
  Characteristic (*input_characteristic)(const Op*, size_t);
  Characteristic (*output_characteristic)(const Op*, size_t);
  int (*input_memory)(const Op*, size_t);
  int (*variadic_input_minimum)(const Op*);
  int (*variadic_input_same_type)(const Op*);
  int (*variadic_output_minimum)(const Op*);
  int (*variadic_output_same_type)(const Op*);
  // Those that report errors; they come before the first two.
  Status* (*create_kernel_or_fail)(const Op*, const Table*, const KernelInfo*, void**);
  Status* (*compute_or_fail)(void*, KernelContext*);
  Status* (*infer_shapes)(const Op*, ShapeContext*);
  int (*first_version)(const Op*);
  int (*last_version)(const Op*);
  size_t (*may_share)(int**, int**);
  void (*release_may_share)(int*, int*);
  size_t (*aliases)(int**, int**);
  void (*release_aliases)(int*, int*);
};

}  // namespace ort
