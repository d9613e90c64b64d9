// What each instruction set implements of attention; the loops around it are in `attention.cpp`.
//
// Query heads stand side by side: a lane is one head of one token, and no lane's result depends on
// another. A sum over a row's 576 values, or over rows, goes from the first to the last, one fused
// multiply-add each; in tiles of bfloat16 it has their order (`x86/amx/bfloat_parts.h`). Softmax is
// cut at positions that depend on nothing else:
//
//   a range   64 logical rows: largest score, weights, their sum, mix
//   a span    8 ranges, folded from first to last into one state
//   the whole spans, folded from first to last
//
// So one thread may walk through all ranges, or many may take some each, and what comes out has the
// same bits. Rows that a lane does not see leave its state as it is: their weight is 0, and a row
// that is not finite is never multiplied with that 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/isa.h"

namespace trtcoder {

inline constexpr int64_t kRangeRows = 64;
inline constexpr int64_t kSpanRanges = 8;
// Lanes are padded to a whole number of vectors.
inline constexpr int64_t kLaneStep = 16;
// Rows of working memory: a range, and what the largest step of any instruction set reads beyond.
inline constexpr int64_t kTileRows = 66;
// Columns of a tile of float32 rows: constant, so that a row's place is a constant distance.
inline constexpr int64_t kTileColumns = 192;
// Values that share a scale with int16 arithmetic.
inline constexpr int64_t kScaleGroup = 64;
// Lanes that go through a range together.
inline constexpr int64_t kMaxStep = 64;
// Values of a sum that a tile of bfloat16 takes at once, and parts of a float32.
inline constexpr int64_t kTileValues = 32;
inline constexpr int kBfloatParts = 3;

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// How rows lie in the cache.
struct RowFormat {
  CacheType type;
  Arithmetic arithmetic;
  int64_t latent;
  int64_t width;
  int64_t group;

  int64_t groups() const { return width / group; }
  int64_t row_bytes() const {
    return width * (type == CacheType::float32 ? 4 : type < CacheType::int8 ? 2 : 1);
  }
  // 32-bit words of a lane's query.
  int64_t query_words() const { return arithmetic == Arithmetic::int16 ? width / 2 : width; }
  // The same once queries are packed.
  int64_t packed_words() const {
    return arithmetic == Arithmetic::bfloat_parts ? tile_blocks() * kBfloatParts * kTileValues / 2
                                                  : query_words();
  }
  // Of tiles: what a row's values take, and columns of the latent.
  int64_t tile_blocks() const { return (width + kTileValues - 1) / kTileValues; }
  int64_t latent_tiles() const { return (latent + 15) / 16; }
  int64_t padded_latent() const { return round_up(latent, 48); }
  int64_t tile_chunks() const { return (width + kTileColumns - 1) / kTileColumns; }
};

// The queries of some tokens of one sequence.
struct QueryLanes {
  int64_t count;           // a multiple of kLaneStep
  // [packed_words][count]: float32, or pairs of int16. Bfloat parts of sixteen lanes stand together:
  // [count / 16][tile_blocks][part][16 pairs][16].
  const void* words;
  const float* scales;     // [groups][count], int16 only
  const int32_t* last;     // [count], the last position that a lane sees
  int32_t first_last;      // the smallest of them
};

// The rows of a range that exist, in the order of their positions.
struct RangeRows {
  int count;
  int32_t first;  // position of the range
  int32_t offset[kRangeRows];  // from there
  const void* entries[kRangeRows];
  const float* scales[kRangeRows];
};

// Fetches the rows of the next range into the second-level cache, a few lines at each step of this
// one: memory that is asked for all at once keeps a core waiting.
class RowsAhead {
 public:
  RowsAhead(const RowFormat& format, const RangeRows& rows);
  // Fetches the lines of so many rows, or so many lines.
  void rows(int count);
  void lines(int count);

 private:
  const RangeRows& rows_;
  const int64_t row_bytes_;
  const int64_t scale_bytes_;
  int row_ = 0;
  int64_t at_ = 0;  // the row's next byte
};

// An unfinished softmax: its largest score, sum of weights, and mixed rows.
struct State {
  float* largest;  // [lanes]
  float* sum;      // [lanes]
  float* mixed;    // [padded_latent][lanes], or in bfloat parts [lanes][padded_latent]
};

// One head's part of `HeadWeights`.
struct HeadMatrix {
  HeadWeights::Type type;
  const void* values;      // [inputs, outputs]
  const uint16_t* scales;  // [inputs / block, outputs], int8 only
  int64_t block;
  int64_t inputs;
  int64_t outputs;
  const void* next;  // the values that will be multiplied after these, or null
  bool is_fetched;   // as the `next` of the values before
};

struct AttentionKernels {
  // What rows are multiplied in that are not whole numbers.
  Arithmetic floats;

  // y[t * y_stride + n] = sum over k of x[t * x_stride + k] * weights[k * outputs + n]; y has room
  // for `outputs` rounded up to 16. Of int8 the codes of a block are summed up, and from the first
  // block to the last sums times scales: sum = fma(sum of the block, scale, sum).
  void (*project)(const HeadMatrix& weights, const float* x, int64_t x_stride, int64_t tokens,
                  float* y, int64_t y_stride);

  // Makes int16 of a query [width], and a scale a group. A group that is not finite has scale NaN.
  void (*quantize_query)(const RowFormat& format, const float* query, int16_t* codes,
                         float* scales);

  // Brings the queries [count][query_words] of some heads side by side, for so many lanes, and zeros
  // into lanes without a head.
  void (*pack_queries)(const RowFormat& format, const uint32_t* words, int64_t count,
                       int64_t lanes, uint32_t* out);

  // out[column * lanes + row] = rows[row * columns + column], and zeros behind the last row.
  void (*transpose)(const void* rows, int64_t count, int64_t columns, void* out, int64_t lanes);

  // Folds a range into a state, or makes it the state if that `is_empty`, and fetches the rows of
  // the next. `scratch` is `scratch_bytes` long and 64-byte aligned.
  void (*attend)(const RowFormat& format, const QueryLanes& queries, RangeRows& rows,
                 const RangeRows& next, const State& state, bool is_empty, std::byte* scratch);

  // Folds `part` into a state, or makes it the state if that `is_empty`; of the mix only the rows
  // [start, stop).
  void (*fold)(const RowFormat& format, int64_t lanes, const State& state, bool is_empty,
               const State& part, int64_t start, int64_t stop);

  // Divides the mix by the sums of weights: out[lane * stride + j] for `count` lanes and rows j in
  // [start, stop) of the mix; `start` is a multiple of 16.
  void (*finish)(const RowFormat& format, int64_t lanes, const State& state, int64_t start,
                 int64_t stop, int64_t count, float* out, int64_t stride);
};

int64_t scratch_bytes(const RowFormat& format);

// Takes the rows out that hold NaN or infinity; returns the first one's offset, or kRangeRows.
int drop_faults(const RowFormat& format, RangeRows& rows);

extern const AttentionKernels portable_attention;
extern const AttentionKernels avx2_attention;
extern const AttentionKernels avx512_attention;
extern const AttentionKernels amx_attention;
extern const AttentionKernels neon_attention;

const AttentionKernels& attention_kernels(Isa isa);

}  // namespace trtcoder
