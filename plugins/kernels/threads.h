// How kernels share their work: a team runs one job on each of its threads at the same time.
#pragma once

#include <atomic>
#include <chrono>
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

// Who is at a job, and where its members wait for each other. Threads that have not come are not
// waited for: whoever is awake takes their pieces. One that comes late passes the barriers that
// the others have left behind, where no pieces are left for it.
class Meeting {
 public:
  // Opens the next job, with the caller as its first member. Nobody may be at the last one.
  void open();
  // Returns the number of an open job, or one that ends the wait, other than `seen`.
  uint32_t await_job(uint32_t seen);
  // Joins the job of this number unless it is over; sets how many barriers lie behind it.
  bool join(uint32_t number, int& barriers);
  // Waits at the member's barrier `index` until every member has come there.
  void wait(int index);
  void leave();
  // Lets nobody in any more, and returns when everybody but the caller has left.
  void close();
  // Ends all waits for a job, for good.
  void dismiss();

 private:
  // What threads sleep on: a half of the state.
  enum Half { kMembers = 0, kJob = 1 };

  template <class Wanted>
  uint64_t await(Half half, std::chrono::microseconds spin, Wanted wanted);
  void wake(Half half);

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> sleepers_[2]{};
};

// A thread's place in a running job.
class Member {
 public:
  // `behind` barriers were passed before it came; no meeting where it is alone.
  Member(Meeting* meeting, int behind) : meeting_(meeting), behind_(behind) {}

  // Returns when all members have come here; what each wrote before is seen by all after it.
  void barrier() const {
    const int index = passed_++;
    if (meeting_ && index >= behind_) meeting_->wait(index);
  }

 private:
  Meeting* const meeting_;
  const int behind_;
  mutable int passed_ = 0;
};

// Runs jobs on threads of its own, which spin between the jobs of a forward pass and sleep after
// it. ONNX Runtime's pool cannot hold barriers: it may run two pieces of a loop one after another.
class Team {
 public:
  // A job takes its pieces from `Counter`s, does not throw, and each member comes to the same
  // barriers. It may run on fewer threads than the team has.
  using Job = void (*)(const Member&, void* context);

  Team();
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Sets the number of threads, the caller of `run` included; waits for a job that is running.
  void resize(int count);
  int size() const { return size_.load(std::memory_order_relaxed); }

  // Runs the job on the threads that are there and returns when all are done. While another
  // thread's job is running, this one runs on the caller's thread alone.
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
