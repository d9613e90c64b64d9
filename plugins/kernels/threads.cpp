#include "kernels/threads.h"

#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

namespace trtcoder {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the pause between two of our operators, shorter than what sampling a token takes.
constexpr auto kSpinForJob = std::chrono::microseconds(500);
// Members of a job come together within microseconds, unless the system has paused one of them.
constexpr auto kSpinForMember = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `value` is no longer `old`: spins for a while, then sleeps until it is notified.
template <class T>
void await_change(std::atomic<T>& value, T old, Clock::duration spin) {
  const auto end = Clock::now() + spin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      relax();
    }
  } while (Clock::now() < end);
  while (value.load(std::memory_order_acquire) == old) value.wait(old);
}

}  // namespace

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    await_change(phase_, phase, kSpinForMember);
  }
}

struct Team::Workers {
  explicit Workers(int count) : meeting(count), process(getpid()) {
    try {
      for (int index = 1; index < count; ++index)
        threads.emplace_back([this, index, count] { serve(index, count); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Workers() { stop(); }

  void stop() {
    post(nullptr, nullptr);
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  void post(Job next, void* next_context) {
    job = next;
    context = next_context;
    unfinished.store(int(threads.size()), std::memory_order_relaxed);
    posted.fetch_add(1, std::memory_order_release);
    posted.notify_all();
  }

  void serve(int index, int count) {
    for (uint32_t seen = 0;; ++seen) {
      await_change(posted, seen, kSpinForJob);
      if (!job) return;
      job(Member{index, count, &meeting}, context);
      if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_all();
    }
  }

  void finish() {
    for (int left; (left = unfinished.load(std::memory_order_acquire)) > 0;)
      await_change(unfinished, left, kSpinForMember);
  }

  Barrier meeting;
  const pid_t process;
  Job job = nullptr;
  void* context = nullptr;
  alignas(64) std::atomic<uint32_t> posted{0};
  alignas(64) std::atomic<int> unfinished{0};
  std::vector<std::thread> threads;
};

Team::Team() = default;

Team::~Team() {
  // In a forked child the threads do not exist and cannot be joined.
  if (workers_ && workers_->process != getpid()) workers_.release();
}

void Team::resize(int count) {
  std::lock_guard lock(busy_);
  if (count == size_.load()) return;
  if (workers_ && workers_->process != getpid()) workers_.release();
  workers_.reset();
  size_.store(count);
}

void Team::run(Job job, void* context) {
  std::unique_lock lock(busy_, std::try_to_lock);
  const int count = size();
  if (!lock.owns_lock() || count == 1) {
    if (lock.owns_lock()) lock.unlock();
    job(Member{0, 1, nullptr}, context);
    return;
  }
  if (workers_ && workers_->process != getpid()) workers_.release();
  if (!workers_) workers_ = std::make_unique<Workers>(count);
  workers_->post(job, context);
  job(Member{0, count, &workers_->meeting}, context);
  workers_->finish();
}

Team& process_team() {
  static Team team;
  return team;
}

}  // namespace trtcoder
