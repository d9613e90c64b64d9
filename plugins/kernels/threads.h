// How kernels share their work: a team runs one job on each of its threads at the same time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

namespace trtcoder {

// A counter from which threads take the next piece of work; each alone on its cache line.
struct alignas(64) Counter {
  std::atomic<int64_t> next{0};

  // Takes the next `step` pieces and returns the first of them.
  int64_t take(int64_t step = 1) { return next.fetch_add(step, std::memory_order_relaxed); }
};

// Where the threads of a job wait for each other.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait();

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// A thread's place in a running job.
struct Member {
  int index;
  int count;
  Barrier* meeting;

  // Returns when all members have come here; what each wrote before is seen by all after it.
  void barrier() const {
    if (count > 1) meeting->wait();
  }
};

// Runs jobs on threads of its own, which spin between the jobs of a forward pass and sleep after
// it. ONNX Runtime's pool cannot hold barriers: it may run two pieces of a loop one after another.
class Team {
 public:
  // A job does not throw, and each member comes to the same barriers.
  using Job = void (*)(const Member&, void* context);

  Team();
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Sets the number of threads, the caller of `run` included; waits for a job that is running.
  void resize(int count);
  int size() const { return size_.load(std::memory_order_relaxed); }

  // Runs the job on every thread and returns when all are done. While another thread's job is
  // running, this one runs on the caller's thread alone.
  void run(Job job, void* context);

  template <class Body>
  void run(Body body) {
    run([](const Member& member, void* context) { (*static_cast<Body*>(context))(member); },
        &body);
  }

 private:
  struct Workers;

  std::mutex busy_;
  std::atomic<int> size_{1};
  std::unique_ptr<Workers> workers_;
};

// The team that all kernels of this process share.
Team& process_team();

}  // namespace trtcoder
