// Calls of our operators, made out of bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "fuzz/runtime.h"

namespace fuzz {

struct Outcome {
  const char* op;
  std::string refusal;  // empty where it computed
  uint64_t digest;      // of the bits of what it computed, and of the cache
};

// Makes a call and runs it; ends the process where the operator did what it must not.
Outcome call(std::span<const uint8_t> input);

}  // namespace fuzz
