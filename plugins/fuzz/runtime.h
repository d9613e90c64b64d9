// As much of ONNX Runtime as our operators ask for: tensors, attributes, and one call at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "fuzz/guarded_memory.h"
#include "ort/abi.h"

namespace fuzz {

struct Tensor {
  ort::ElementType type = ort::kAny;
  std::vector<int64_t> shape;
  GuardedMemory memory;
  bool is_there = true;

  int64_t count() const {
    int64_t product = 1;
    for (int64_t size : shape) product *= size;
    return product;
  }
};

size_t element_bytes(ort::ElementType type);

// Returns a tensor with room for its shape; weights lie at 64 bytes, as in an engine's file.
Tensor tensor(ort::ElementType type, std::vector<int64_t> shape, bool is_weight = false);

// A node: what `create_kernel_or_fail` and `compute_or_fail` of an operator see.
struct Node {
  std::map<std::string, int64_t> integers;
  std::map<std::string, float> numbers;
  std::vector<Tensor> inputs;
  // Output -> the input whose memory it has.
  std::map<size_t, size_t> aliases;
  std::map<size_t, Tensor> outputs;
};

// Runs an operator of the library on a node; returns an empty text, or why it refused.
std::string run(const char* op, Node& node);

}  // namespace fuzz
