// What this machine can do at most: bytes read from memory, and products of int8, a second.
//
//     peaks THREADS SECONDS
//
// Every thread works on its own memory or registers for the given time; all begin together. Prints
// one JSON line: {"read": bytes, "int8": {"vnni": operations, …}}, a product and its sum two.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

std::atomic<uint64_t> sink{0};

// Runs `work(thread)` again and again on every thread; returns what it returned, all together, over
// the seconds.
template <class Work>
double rate(int threads, double seconds, Work work) {
  std::atomic<int> ready{0};
  std::vector<double> rates(threads);
  std::vector<std::thread> team;
  for (int index = 0; index < threads; ++index)
    team.emplace_back([&, index] {
      work(index);
      ready.fetch_add(1);
      while (ready.load() < threads) std::this_thread::yield();
      const auto begin = Clock::now();
      double done = 0, passed = 0;
      do {
        done += work(index);
        passed = std::chrono::duration<double>(Clock::now() - begin).count();
      } while (passed < seconds);
      rates[index] = done / passed;
    });
  for (std::thread& thread : team) thread.join();
  double total = 0;
  for (double each : rates) total += each;
  return total;
}

// Far larger than any cache.
constexpr size_t kWords = size_t{1} << 27;
constexpr size_t kSlice = kWords / 16;
constexpr int kTurns = 1 << 16;

uint64_t read_words(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < count; i += 8)
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) uint64_t read_wide(const uint64_t* words, size_t count) {
  __m512i sums[4] = {};
  for (size_t i = 0; i < count; i += 32)
    for (int j = 0; j < 4; ++j)
      sums[j] = _mm512_add_epi64(sums[j], _mm512_loadu_si512(words + i + 8 * j));
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]),
                                             _mm512_add_epi64(sums[2], sums[3])));
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}

__attribute__((target("avx512f,avx512vnni"))) double vnni() {
  __m512i sums[12] = {}, a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int i = 0; i < kTurns; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) {
      sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
      asm volatile("" : "+v"(sums[j]));
    }
  return 2.0 * 64 * 12 * kTurns;
}

__attribute__((target("avx2"))) double avx2() {
  __m256i sums[8] = {}, a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int i = 0; i < kTurns; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      __m256i pairs = _mm256_maddubs_epi16(a, b);
      asm volatile("" : "+x"(pairs));
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs, ones));
      asm volatile("" : "+x"(sums[j]));
    }
  return 2.0 * 32 * 8 * kTurns;
}

__attribute__((target("avx2,avxvnni"))) double avxvnni() {
  __m256i sums[12] = {}, a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (int i = 0; i < kTurns; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) {
      sums[j] = _mm256_dpbusd_avx_epi32(sums[j], a, b);
      asm volatile("" : "+x"(sums[j]));
    }
  return 2.0 * 32 * 12 * kTurns;
}

// The system gives the tiles to those who ask.
bool has_amx() {
  constexpr int kAskForState = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("amx-int8") && !syscall(SYS_arch_prctl, kAskForState, kTileData);
}

__attribute__((target("amx-tile,amx-int8"))) double amx() {
  // Of eight tiles: the palette, the bytes of a row (16 bits each), and the rows.
  alignas(64) static const uint8_t shape[64] = {
      1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
      64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0, 64, 0,  //
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
      16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0};
  alignas(64) static const int8_t values[1024] = {1, 2, 3};
  _tile_loadconfig(shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, values, 64);
  _tile_loadd(5, values, 64);
  _tile_loadd(6, values, 64);
  _tile_loadd(7, values, 64);
  for (int i = 0; i < kTurns; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 16 * 16 * 64 * 4 * kTurns;
}

#elif defined(__aarch64__)

__attribute__((target("arch=armv8.2-a+dotprod"))) double neon() {
  int32x4_t sums[16] = {};
  const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
  for (int i = 0; i < kTurns; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      sums[j] = vdotq_s32(sums[j], a, b);
      asm volatile("" : "+w"(sums[j]));
    }
  return 2.0 * 16 * 16 * kTurns;
}

#endif

double read_rate(int threads, double seconds) {
  std::vector<std::vector<uint64_t>> memory(threads);
  std::vector<size_t> next(threads);
  auto read = read_words;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) read = read_wide;
#endif
  return rate(threads, seconds, [&](int index) {
    // Each thread touches its own memory first: it is then near to it.
    if (memory[index].empty()) memory[index].assign(kWords, 1);
    sink.fetch_add(read(memory[index].data() + next[index], kSlice), std::memory_order_relaxed);
    next[index] = (next[index] + kSlice) % kWords;
    return double(kSlice * sizeof(uint64_t));
  });
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: peaks THREADS SECONDS\n");
    return 2;
  }
  const int threads = std::atoi(arguments[1]);
  const double seconds = std::atof(arguments[2]);
  std::printf("{\"read\": %.6g, \"int8\": {", read_rate(threads, seconds));
  const char* comma = "";
  const auto peak = [&](const char* name, bool is_there, double (*work)()) {
    if (!is_there) return;
    const double found = rate(threads, seconds, [&](int) { return work(); });
    std::printf("%s\"%s\": %.6g", comma, name, found);
    comma = ", ";
  };
#if defined(__x86_64__)
  peak("avx2", __builtin_cpu_supports("avx2"), avx2);
  peak("avxvnni", __builtin_cpu_supports("avxvnni"), avxvnni);
  peak("avx512", __builtin_cpu_supports("avx512vnni"), vnni);
  peak("amx", has_amx(), amx);
#elif defined(__aarch64__)
  peak("neon", getauxval(AT_HWCAP) & (1UL << 20), neon);
#endif
  std::printf("}}\n");
}
