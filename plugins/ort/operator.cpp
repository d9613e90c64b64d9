#include "ort/operator.h"

#include <algorithm>

namespace ort {

const Table* g_table = nullptr;

void check(Status* status) {
  if (!status) return;
  const std::string message = GetErrorMessage::call(*g_table, status);
  ReleaseStatus::call(*g_table, status);
  throw std::runtime_error(message);
}

namespace {

Tensor read(const Value* value) {
  Tensor tensor;
  if (!value) return tensor;
  check(GetTensorData::call(*g_table, value, &tensor.data));
  TensorInfo* held = nullptr;
  check(GetTensorInfo::call(*g_table, value, &held));
  const auto release = [](TensorInfo* info) { ReleaseTensorInfo::call(*g_table, info); };
  const std::unique_ptr<TensorInfo, decltype(release)> info(held, release);
  check(GetElementType::call(*g_table, info.get(), &tensor.type));
  check(GetDimensionCount::call(*g_table, info.get(), &tensor.rank));
  if (tensor.rank > std::size(tensor.dims)) throw std::invalid_argument("too many dimensions");
  check(GetDimensions::call(*g_table, info.get(), tensor.dims, tensor.rank));
  return tensor;
}

}  // namespace

int64_t Tensor::count() const {
  int64_t product = 1;
  for (size_t i = 0; i < rank; ++i) product *= dims[i];
  return product;
}

std::string Tensor::shape() const {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

void Tensor::expect(const char* what, std::initializer_list<int64_t> expected) const {
  if (data && std::equal(dims, dims + rank, expected.begin(), expected.end())) return;
  Tensor wanted;
  for (int64_t size : expected) wanted.dims[wanted.rank++] = size;
  throw std::invalid_argument(std::string(what) + ": " + (data ? shape() : "missing") +
                              ", expected " + wanted.shape());
}

Tensor Call::input(size_t index) const {
  const Value* value = nullptr;
  check(GetInput::call(*g_table, static_cast<const KernelContext*>(context_), index, &value));
  return read(value);
}

Tensor Call::output(size_t index, std::initializer_list<int64_t> shape) const {
  Value* value = nullptr;
  check(GetOutput::call(*g_table, context_, index, shape.begin(), shape.size(), &value));
  return read(value);
}

int64_t Attributes::integer(const char* name) const {
  int64_t value = 0;
  check(GetIntAttribute::call(*g_table, info_, name, &value));
  return value;
}

int64_t Attributes::size(const char* name) const {
  const int64_t value = integer(name), most = (int64_t{1} << 31) - 1;
  if (value < 0 || value > most)
    throw std::invalid_argument(std::string(name) + ": " + std::to_string(value) +
                                ", expected 0 to " + std::to_string(most));
  return value;
}

float Attributes::number(const char* name) const {
  float value = 0;
  check(GetFloatAttribute::call(*g_table, info_, name, &value));
  return value;
}

}  // namespace ort
