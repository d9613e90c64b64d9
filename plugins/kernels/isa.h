// Instruction sets that kernels are written for, and the one place that chooses between them.
#pragma once

namespace trtcoder {

// In rising order: of those that a machine has, the last is the best.
enum class Isa { portable, avx2, avxvnni, avx512, amx, neon };
inline constexpr Isa kIsas[] = {Isa::portable, Isa::avx2, Isa::avxvnni,
                                Isa::avx512,   Isa::amx,  Isa::neon};

const char* isa_name(Isa isa);

// Whether this library has code for it and this machine can run it.
bool isa_available(Isa isa);

// The available one of this name. Throws std::invalid_argument if there is none.
Isa isa_named(const char* name);

// The best available one; the environment variable TRTCODER_ISA names another.
Isa isa_chosen();

// A kernel family's implementations; null where this architecture has none.
template <class Table>
struct PerIsa {
  const Table* portable = nullptr;
  const Table* avx2 = nullptr;
  const Table* avxvnni = nullptr;
  const Table* avx512 = nullptr;
  const Table* amx = nullptr;
  const Table* neon = nullptr;

  const Table& operator[](Isa isa) const {
    const Table* tables[] = {portable, avx2, avxvnni, avx512, amx, neon};
    return *tables[static_cast<int>(isa)];
  }
};

}  // namespace trtcoder
