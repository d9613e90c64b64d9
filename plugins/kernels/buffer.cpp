#include "kernels/buffer.h"

#include <bit>
#include <new>

namespace trtcoder {
namespace {

constexpr std::align_val_t kAlignment{64};

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
// The sanitizer sees who reads beyond a buffer that is as long as it was asked for.
constexpr size_t kMostKept = 0;
#else
// More than the calls of a decoding step need, less than a long prompt's.
constexpr size_t kMostKept = size_t{32} << 20;
#endif

// What a thread was given back, by powers of two.
class Kept {
 public:
  ~Kept() {
    for (Block*& list : lists_)
      while (Block* block = list) {
        list = block->next;
        ::operator delete(block, kAlignment);
      }
  }

  void* take(size_t bytes) {
    Block*& list = lists_[std::countr_zero(bytes)];
    Block* const block = list;
    if (!block) return ::operator new(bytes, kAlignment);
    list = block->next;
    bytes_ -= bytes;
    return block;
  }

  void give(void* memory, size_t bytes) {
    if (bytes_ + bytes > kMostKept) return ::operator delete(memory, kAlignment);
    Block*& list = lists_[std::countr_zero(bytes)];
    list = new (memory) Block{list};
    bytes_ += bytes;
  }

 private:
  struct Block {
    Block* next;
  };
  Block* lists_[64] = {};
  size_t bytes_ = 0;
};

thread_local Kept kept;

bool is_kept(size_t bytes) { return bytes <= kMostKept / 2; }
size_t rounded(size_t bytes) { return std::bit_ceil(bytes < 64 ? size_t{64} : bytes); }

}  // namespace

void* take_memory(size_t bytes) {
  return is_kept(bytes) ? kept.take(rounded(bytes)) : ::operator new(bytes, kAlignment);
}

void give_memory(void* memory, size_t bytes) {
  if (is_kept(bytes)) return kept.give(memory, rounded(bytes));
  ::operator delete(memory, kAlignment);
}

}  // namespace trtcoder
