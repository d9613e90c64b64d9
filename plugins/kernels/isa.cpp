#include "kernels/isa.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace trtcoder {
namespace {

#if defined(__x86_64__)
// These also ask the system whether it saves the wide registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
// Tiles are state that the system saves only for a process that has asked for it.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
bool has_amx() {
  constexpr unsigned kShuffles = 1u << 1, kGfni = 1u << 8;  // of any bytes; products of bits
  constexpr unsigned kTiles = 1u << 24, kTilesOfBytes = 1u << 25;
  unsigned a, b, c, d;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if (!(c & kShuffles) || !(c & kGfni) || !(d & kTiles) || !(d & kTilesOfBytes)) return false;
  static const bool permitted = may_use_tiles();
  return permitted;
}
#endif

Isa best() {
  Isa found = Isa::portable;
  for (Isa isa : kIsas)
    if (isa_available(isa)) found = isa;
  return found;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::portable: return "portable";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::amx: return "amx";
    case Isa::neon: return "neon";
  }
  return "";
}

bool isa_available(Isa isa) {
  switch (isa) {
    case Isa::portable: return true;
#if defined(__x86_64__)
    case Isa::avx2: return has_avx2();
    case Isa::avx512: return has_avx512();
    case Isa::amx: return has_amx();
#elif defined(__aarch64__)
    case Isa::neon: {
      const unsigned long kDotProduct = 1UL << 20, kHalfVectors = 1UL << 10;
      const unsigned long has = getauxval(AT_HWCAP);
      return (has & kDotProduct) && (has & kHalfVectors);
    }
#endif
    default: return false;
  }
}

Isa isa_named(const char* name) {
  std::string available;
  for (Isa isa : kIsas) {
    if (!isa_available(isa)) continue;
    if (!std::strcmp(name, isa_name(isa))) return isa;
    available += std::string(" ") + isa_name(isa);
  }
  throw std::invalid_argument(std::string("instruction set ") + name + ": this machine has only" +
                              available);
}

Isa isa_chosen() {
  static const Isa chosen = [] {
    const char* named = std::getenv("TRTCODER_ISA");
    if (named)
      for (Isa isa : kIsas)
        if (!std::strcmp(named, isa_name(isa)) && isa_available(isa)) return isa;
    return best();
  }();
  return chosen;
}

}  // namespace trtcoder
