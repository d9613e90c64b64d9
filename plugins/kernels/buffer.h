// Working memory of one call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trtcoder {

// Memory at a 64-byte boundary, not initialized, which the same thread gives back; throws
// std::bad_alloc. A thread keeps what it was given back for its next call: the C library may return
// it to the system, whose pages cost more than many a call when they come anew.
void* take_memory(size_t bytes);
void give_memory(void* memory, size_t bytes);

// `count` values, not initialized, at a 64-byte boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : bytes_(count * sizeof(T)), data_(static_cast<T*>(take_memory(bytes_))) {}
  ~Buffer() { give_memory(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  const size_t bytes_;
  T* const data_;
};

}  // namespace trtcoder
