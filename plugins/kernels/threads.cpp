#include "kernels/threads.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <thread>
#include <vector>

namespace trtcoder {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the pause between two of our operators, shorter than what sampling a token takes.
constexpr auto kSpinForJob = std::chrono::microseconds(500);
// Members of a job come together within microseconds, unless the system has paused one of them.
constexpr auto kSpinForMember = std::chrono::microseconds(50);

// The number of no job: what a team's threads go home by.
constexpr uint32_t kDismissal = ~uint32_t{0};

// What a meeting's word holds.
struct State {
  uint32_t number;    // of the job; odd while it is open
  uint32_t barriers;  // that lie behind, modulo 256
  uint32_t members;
  uint32_t waiting;  // members at the next barrier

  explicit State(uint64_t word)
      : number(uint32_t(word >> 32)), barriers(uint32_t(word >> 24 & 0xff)),
        members(uint32_t(word >> 12 & kMaxMembers)), waiting(uint32_t(word & kMaxMembers)) {}

  uint64_t word() const {
    return uint64_t{number} << 32 | uint64_t{barriers & 0xff} << 24 | members << 12 | waiting;
  }

  bool is_open() const { return number % 2 != 0; }

  static constexpr uint32_t kMaxMembers = 0xfff;
};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The C++ library's own wait yields before it sleeps: to any other program, for as long as the
// system lets that run. Returns at once where the word is not `old`, and sometimes otherwise.
void sleep_on(const uint32_t* word, uint32_t old) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}

void wake_all(const uint32_t* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Replaces a value by what `change` makes of it, unless that returns false.
template <class Change>
bool update(std::atomic<uint64_t>& state, Change change) {
  uint64_t old = state.load(std::memory_order_relaxed);
  for (;;) {
    State next(old);
    if (!change(next)) return false;
    if (state.compare_exchange_weak(old, next.word(), std::memory_order_seq_cst,
                                    std::memory_order_relaxed))
      return true;
  }
}

}  // namespace

// Returns the first state that is `wanted`: spins for a while, then sleeps until it is woken.
template <class Wanted>
uint64_t Meeting::await(Half half, std::chrono::microseconds spin, Wanted wanted) {
  const auto end = Clock::now() + spin;
  do {
    for (int i = 0; i < 32; ++i) {
      const uint64_t word = state_.load(std::memory_order_acquire);
      if (wanted(State(word))) return word;
      relax();
    }
  } while (Clock::now() < end);
  sleepers_[half].fetch_add(1);
  for (;;) {
    // Who changes the state after this sees the sleeper.
    const uint64_t word = state_.load();
    if (wanted(State(word))) {
      sleepers_[half].fetch_sub(1);
      return word;
    }
    sleep_on(reinterpret_cast<const uint32_t*>(&state_) + half, uint32_t(word >> 32 * half));
  }
}

void Meeting::wake(Half half) {
  if (sleepers_[half].load()) wake_all(reinterpret_cast<const uint32_t*>(&state_) + half);
}

void Meeting::open() {
  State next(state_.load(std::memory_order_relaxed));
  next.number = next.number + 1 == kDismissal ? 1 : next.number + 1;
  next.barriers = next.waiting = 0;
  next.members = 1;
  state_.store(next.word());
  wake(kJob);
}

uint32_t Meeting::await_job(uint32_t seen) {
  return State(await(kJob, kSpinForJob, [&](const State& found) {
           return found.is_open() && found.number != seen;
         })).number;
}

bool Meeting::join(uint32_t number, int& barriers) {
  return update(state_, [&](State& next) {
    barriers = int(next.barriers);
    next.members += 1;
    return next.number == number;
  });
}

void Meeting::wait(int index) {
  bool is_last = false;
  update(state_, [&](State& next) {
    is_last = next.waiting + 1 == next.members;
    next.waiting = is_last ? 0 : next.waiting + 1;
    next.barriers += is_last ? 1 : 0;
    return true;
  });
  if (is_last) return wake(kMembers);
  const uint32_t behind = uint32_t(index) & 0xff;
  await(kMembers, kSpinForMember, [&](const State& found) { return found.barriers != behind; });
}

void Meeting::leave() {
  bool is_last = false;
  update(state_, [&](State& next) {
    next.members -= 1;
    is_last = next.members == 0;
    return true;
  });
  if (is_last) wake(kMembers);
}

void Meeting::close() {
  update(state_, [](State& next) {
    next.number += 1;
    next.members -= 1;
    return true;
  });
  await(kMembers, kSpinForMember, [](const State& found) { return found.members == 0; });
}

void Meeting::dismiss() {
  State last(0);
  last.number = kDismissal;
  state_.store(last.word());
  wake(kJob);
}

struct Team::Workers {
  explicit Workers(int count) : process(getpid()) {
    try {
      for (int i = 1; i < count; ++i) threads.emplace_back([this] { serve(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Workers() { stop(); }

  void stop() {
    meeting.dismiss();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  void run(Job next, void* next_context) {
    job = next;
    context = next_context;
    meeting.open();
    job(Member(&meeting, 0), context);
    meeting.close();
  }

  void serve() {
    for (uint32_t number = 0; (number = meeting.await_job(number)) != kDismissal;) {
      int behind = 0;
      if (!meeting.join(number, behind)) continue;
      job(Member(&meeting, behind), context);
      meeting.leave();
    }
  }

  Meeting meeting;
  const pid_t process;
  Job job = nullptr;
  void* context = nullptr;
  std::vector<std::thread> threads;
};

Team::Team() = default;

Team::~Team() {
  // In a forked child the threads do not exist and cannot be joined.
  if (workers_ && workers_->process != getpid()) workers_.release();
}

void Team::resize(int count) {
  std::lock_guard lock(busy_);
  count = std::min(count, int(State::kMaxMembers));
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
    job(Member(nullptr, 0), context);
    return;
  }
  if (workers_ && workers_->process != getpid()) workers_.release();
  if (!workers_) workers_ = std::make_unique<Workers>(count);
  workers_->run(job, context);
}

Team& process_team() {
  static Team team;
  return team;
}

}  // namespace trtcoder
