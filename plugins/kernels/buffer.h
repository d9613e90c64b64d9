// Working memory of one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace trtcoder {

// `count` values, not initialized, at a 64-byte boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), kAlignment))) {}
  ~Buffer() { ::operator delete(data_, kAlignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* data_;
};

}  // namespace trtcoder
