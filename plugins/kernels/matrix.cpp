#include "kernels/matrix.h"

#include <stdexcept>
#include <string>

namespace trtcoder {

void check(const Matrix& m) {
  const auto refuse = [](const std::string& what) { throw std::invalid_argument(what); };
  if (m.bits != 4 && m.bits != 8 && m.bits != 32)
    refuse("bits: " + std::to_string(m.bits) + ", expected 4, 8 or 32");
  if (m.is_float() && m.block != 0)
    refuse("block: " + std::to_string(m.block) + ", expected 0 with 32 bits");
  if (!m.is_float() && m.block != 32 && m.block != 64 && m.block != 128)
    refuse("block: " + std::to_string(m.block) + ", expected 32, 64 or 128");
  // Bytes of a matrix are counted in 64 bits.
  const int64_t most = int64_t{1} << 32;
  if (m.rows < 1 || m.width < 1 || m.rows > most || m.width > most / 2)
    refuse("matrix: " + std::to_string(m.rows) + " x " + std::to_string(m.width) +
           ", expected at least one row and column, and less than 2^31");
  if (!m.codes || (!m.is_float() && !m.scales)) refuse("matrix: codes or scales are missing");
  if (m.is_float() && (m.scales || m.zeros))
    refuse("matrix: scales or zero points beside 32 bits");
}

}  // namespace trtcoder
