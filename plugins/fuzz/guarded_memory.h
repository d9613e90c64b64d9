// Memory whose bounds the processor watches: a read or write past either end ends the process.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace fuzz {

// `bytes` bytes that end at a page that may not be touched. `alignment` rounds their start down:
// what lies between their end and the page is filled, and `is_intact` tells whether it still is.
class GuardedMemory {
 public:
  GuardedMemory() = default;
  GuardedMemory(size_t bytes, size_t alignment) : bytes_(bytes) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), inner = (bytes + alignment + page) / page * page;
    mapped_ = inner + 2 * page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, inner, PROT_READ | PROT_WRITE)) std::abort();
    end_ = base_ + page + inner;
    data_ = end_ - (bytes + alignment - 1) / alignment * alignment;
    std::memset(data_ + bytes, kFill, size_t(end_ - data_) - bytes);
  }
  ~GuardedMemory() {
    if (base_) munmap(base_, mapped_);
  }
  GuardedMemory(GuardedMemory&& other) noexcept { *this = std::move(other); }
  GuardedMemory& operator=(GuardedMemory&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    std::swap(base_, other.base_);
    std::swap(data_, other.data_);
    std::swap(end_, other.end_);
    return *this;
  }

  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  bool is_intact() const {
    for (const uint8_t* p = data_ + bytes_; p < end_; ++p)
      if (*p != kFill) return false;
    return true;
  }

 private:
  static constexpr uint8_t kFill = 0xA5;
  size_t bytes_ = 0;
  size_t mapped_ = 0;
  uint8_t* base_ = nullptr;
  uint8_t* data_ = nullptr;
  uint8_t* end_ = nullptr;
};

}  // namespace fuzz
