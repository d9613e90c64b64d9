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
// What the processor has and the system saves (Intel's manual, volume 2, CPUID and XGETBV). The
// compilers' __builtin_cpu_supports asks a runtime library of theirs, and ziglang's has none.
struct Processor {
  bool avx2 = false, avxvnni = false, avx512 = false, tiles = false;

  Processor() {
    constexpr unsigned kFma = 1u << 12, kSaves = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
    constexpr unsigned kAvx2 = 1u << 5;                                            // leaf 7, ebx
    constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;        // F, DQ, BW, VL
    constexpr unsigned kShuffles = 1u << 1, kGfni = 1u << 8, kVnni = 1u << 11;     // leaf 7, ecx
    constexpr unsigned kTiles = 1u << 22 | 1u << 24 | 1u << 25;                    // leaf 7, edx
    constexpr unsigned kAvxVnni = 1u << 4;                                         // leaf 7/1, eax
    constexpr unsigned kSavesAvx = 0x6, kSavesAvx512 = 0xe6, kSavesTiles = 0x60000;
    unsigned a, b, c, d, saved, high;
    if (!has(__get_cpuid(1, &a, &b, &c, &d) ? c : 0, kFma | kSaves | kAvx | kF16c)) return;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    avx2 = has(saved, kSavesAvx) && has(b, kAvx2);
    avx512 = avx2 && has(saved, kSavesAvx512) && has(b, kAvx512) && has(c, kVnni);
    tiles = avx512 && has(saved, kSavesTiles) && has(c, kShuffles | kGfni) && has(d, kTiles);
    avxvnni = avx2 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, kAvxVnni);
  }

  static bool has(unsigned found, unsigned wanted) { return (found & wanted) == wanted; }
};

const Processor& processor() {
  static const Processor found;
  return found;
}

// Tiles are state that the system saves only for a process that has asked for it.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
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
    case Isa::avxvnni: return "avxvnni";
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
    case Isa::avx2: return processor().avx2;
    case Isa::avxvnni: return processor().avxvnni;
    case Isa::avx512: return processor().avx512;
    case Isa::amx: return processor().tiles && may_use_tiles();
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
