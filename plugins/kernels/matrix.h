// How matrices and activations lie in memory.
#pragma once

#include <stdint.h>

namespace trtcoder {

// A matrix [rows, width] in blocks of columns, of which each row's has a scale and, if `zeros` is
// given, a zero point; otherwise the zero point is the middle code, 8 or 128. A weight is
// (code - zero) * scale.
//
// Sixteen rows are a panel. For panel p and block b, 64-byte aligned:
//   codes   4 bits: [p][b][block / 8][16 rows][4 bytes]; a byte is an even column (low) and the next
//           8 bits: [p][b][block / 8][even, odd][16 rows][4 bytes]
//   scales  float16 [p][b][16 rows]
//   zeros   4 bits: [p][b / 2][16 rows], an even block (low) and the next; 8 bits: [p][b][16 rows]
// Rows and columns beyond the matrix have scale 0.
//
// A matrix of 32 bits has no blocks, scales and zero points. Its codes are float32 values:
//   codes   [p][width][16 rows]
// Rows beyond the matrix are 0.
struct Matrix {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t* zeros;
  int64_t rows;
  int64_t width;
  int bits;
  int block;

  bool is_float() const { return bits == 32; }
  const float* values() const { return reinterpret_cast<const float*>(codes); }

  int64_t panels() const { return (rows + 15) / 16; }
  int64_t blocks() const { return is_float() ? 0 : (width + block - 1) / block; }
  int64_t panel_code_bytes() const {
    return is_float() ? width * 16 * int64_t(sizeof(float)) : blocks() * block * 16 * bits / 8;
  }
  int64_t panel_zero_bytes() const { return (bits == 4 ? (blocks() + 1) / 2 : blocks()) * 16; }
};

// The matrix of the same form that lies `count` matrices behind this one.
inline Matrix matrix_behind(Matrix m, int64_t count) {
  const int64_t panels = count * m.panels();
  m.codes += panels * m.panel_code_bytes();
  if (m.scales) m.scales += panels * m.blocks() * 16;
  if (m.zeros) m.zeros += panels * m.panel_zero_bytes();
  return m;
}

// Throws std::invalid_argument unless the kernels take a matrix of this form.
void check(const Matrix& matrix);

// How activations are quantized for a matrix: its blocks, and what the sums of a block's codes are
// multiplied with beforehand. For a float32 matrix they stay as they are, and a block is what one
// panel of gate and one of up give.
struct ActivationFormat {
  int bits;
  int block;
  bool has_zeros;

  static constexpr int kFloatBlock = 16;

  explicit ActivationFormat(const Matrix& m)
      : bits(m.bits), block(m.is_float() ? kFloatBlock : m.block), has_zeros(m.zeros != nullptr) {}
  bool is_float() const { return bits == 32; }
  int64_t blocks(int64_t width) const { return (width + block - 1) / block; }
  bool operator==(const ActivationFormat&) const = default;
};

// Some tokens' activations as a product reads them, in blocks of `block` columns:
//   codes    int8, the columns of each eight in the order 0 2 4 6 1 3 5 7:
//            [width / 4][tokens][4], or of a tiled group [width / piece][tokens][piece], where a
//            piece is a block, or two of 32. Products read up to a tile's tokens there: what lies
//            behind a group's last must be readable, and reaches no result.
//   scales   float32 [blocks][tokens]
//   offsets  int32 [blocks][tokens]: where sums of products start that have one zero point (see
//            `kZeroBits`), or the sum of the block's codes
// For a float32 matrix they are rows of float32, `stride` values from one to the next.
struct Activations {
  int tokens;
  bool tiled = false;
  const int8_t* codes = nullptr;
  const float* scales = nullptr;
  const int32_t* offsets = nullptr;
  const float* rows = nullptr;
  int64_t stride = 0;
};

}  // namespace trtcoder
