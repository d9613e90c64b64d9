// What a team of threads promises, as a program: it ends with 0, or says what did not hold.
#include "kernels/threads.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using namespace trtcoder;

namespace {

sem_t g_go_on;
std::atomic<int> g_held{0};

void hold(int) {
  g_held.fetch_add(1);
  while (sem_wait(&g_go_on)) {
  }
}

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("does not hold: %s\n", what);
  std::exit(1);
}

// Runs jobs of three parts, each of which reads all that the one before wrote. A piece of a part is
// done once, by whomever.
void run_jobs(Team& team, int jobs) {
  constexpr int64_t kPieces = 97;
  std::vector<int64_t> parts[3];
  for (int job = 0; job < jobs; ++job) {
    for (auto& part : parts) part.assign(kPieces, 0);
    Counter taken[3];
    team.run([&](const Member& member) {
      for (int64_t i; (i = taken[0].take()) < kPieces;) parts[0][i] += i + job;
      for (int part = 1; part < 3; ++part) {
        member.barrier();
        for (int64_t i; (i = taken[part].take(2)) < kPieces;)
          for (int64_t j = i; j < std::min(i + 2, kPieces); ++j)
            for (int64_t k = 0; k < kPieces; ++k)
              parts[part][j] += parts[part - 1][k];
      }
    });
    const int64_t sum = kPieces * (kPieces - 1) / 2 + kPieces * job;
    for (int64_t i = 0; i < kPieces; ++i)
      expect(parts[0][i] == i + job && parts[1][i] == sum && parts[2][i] == kPieces * sum,
             "every piece is done once, and seen by the next part");
  }
}

// Returns the threads of a team beside the caller's.
std::vector<pthread_t> workers(Team& team) {
  std::mutex lock;
  std::vector<pthread_t> found;
  std::atomic<int> there{0};
  const pthread_t caller = pthread_self();
  team.run([&](const Member&) {
    {
      std::lock_guard guard(lock);
      if (!pthread_equal(pthread_self(), caller)) found.push_back(pthread_self());
    }
    for (there.fetch_add(1); there.load() < team.size();) std::this_thread::yield();
  });
  return found;
}

void nobody_waits_for_a_thread_that_has_not_come(int size) {
  Team team;
  team.resize(size);
  const std::vector<pthread_t> others = workers(team);
  expect(int(others.size()) == size - 1, "a job may have all threads of the team");
  // The system has taken their cores, from one after the other.
  for (size_t i = 0; i < others.size(); ++i) {
    pthread_kill(others[i], SIGUSR1);
    while (g_held.load() <= int(i)) std::this_thread::yield();
    run_jobs(team, 20);
  }
  for (size_t i = 0; i < others.size(); ++i) sem_post(&g_go_on);
  g_held.store(0);
  run_jobs(team, 20);
  expect(workers(team).size() == others.size(), "they come again");
}

void callers_share_a_team(int size) {
  Team team;
  team.resize(size);
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back([&] { run_jobs(team, 50); });
  for (int count = 1; count < 4; ++count) team.resize(count);
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
  sem_init(&g_go_on, 0, 0);
  signal(SIGUSR1, hold);
  for (int size : {1, 2, 3, 8}) {
    Team team;
    team.resize(size);
    run_jobs(team, 200);
    nobody_waits_for_a_thread_that_has_not_come(size);
    callers_share_a_team(size);
  }
}
