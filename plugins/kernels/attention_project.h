// Products with the matrix of a head.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/attention_softmax.h"
#include "kernels/buffer.h"

namespace trtcoder {
namespace {

// Few tokens take some rows of the matrix at once, all their columns, so that memory is read from
// front to end; sums wait in `y`. Many tokens take some rows of a few columns, which are made
// float32 once and stay in the nearest cache while all tokens pass.
template <class Lanes>
struct HeadProducts {
  using F = typename Lanes::F;

  static constexpr int64_t kFewTokens = 16;
  // Bytes of the rows that few tokens take at once.
  static constexpr int64_t kStepBytes = 16384;
  // How far ahead of the products weights are fetched; memory answers after a few hundred cycles.
  static constexpr int64_t kFewAhead = kStepBytes, kManyAhead = 8192;
  // Rows and columns that many tokens take at once; of int8 a block's rows, if they are not more.
  static constexpr int64_t kManyRows = 128, kManyColumns = 64;
  // Vectors of sums that stay in registers.
  static constexpr int kSums = Lanes::kMaxVectors >= 4 ? 16 : 4;

  struct Float32 {
    using Value = float;
    static TRTCODER_INLINE F load(const Value* p) { return Lanes::load(p); }
  };
  struct Float16 {
    using Value = uint16_t;
    static TRTCODER_INLINE F load(const Value* p) { return Lanes::load_half(p); }
  };
  struct Bfloat16 {
    using Value = uint16_t;
    static TRTCODER_INLINE F load(const Value* p) { return Lanes::load_bfloat(p); }
  };
  struct Int8 {
    using Value = int8_t;
    static TRTCODER_INLINE F load(const Value* p) {
      return Lanes::from_int(Lanes::load_signed_bytes(p));
    }
  };

  // What many tokens take of a matrix, in float32.
  template <bool has_scales>
  struct Widened : Float32 {};

  template <class Type>
  static constexpr bool kIsScaled =
      std::is_same_v<Type, Int8> || std::is_same_v<Type, Widened<true>>;

  // A matrix from front to end, and behind it where the next one begins.
  class Ahead {
   public:
    Ahead(const HeadMatrix& m, int64_t bytes, int64_t ahead = kFewAhead)
        : values_(static_cast<const std::byte*>(m.values)),
          next_(static_cast<const std::byte*>(m.next ? m.next : m.values)), bytes_(bytes),
          at_(ahead) {
      for (int64_t i = m.is_fetched ? ahead : 0; i < ahead; i += 64) Lanes::prefetch(values_ + i);
    }

    // Takes the next `count` bytes.
    const std::byte* take(int64_t count) {
      const std::byte* from = at_ < bytes_ ? values_ + at_ : next_ + (at_ - bytes_);
      at_ += count;
      return from;
    }

   private:
    const std::byte* const values_;
    const std::byte* const next_;
    const int64_t bytes_;
    int64_t at_;
  };

  // Some rows and columns of a matrix, and what they are multiplied with.
  template <class Value>
  struct Part {
    const Value* values;
    const uint16_t* scales;  // of int8, those of the rows' block
    int64_t outputs;         // from a row to the next
    int64_t rows;
    int64_t columns;
    const float* x;
    int64_t x_stride;
    float* y;
    int64_t y_stride;
    bool is_first;  // `y` holds nothing yet

    Part behind(int64_t columns_before) const {
      Part p = *this;
      p.values += columns_before, p.y += columns_before, p.columns -= columns_before;
      if (scales) p.scales += columns_before;
      return p;
    }
  };

  // The last columns are fewer than a vector, and the memory may end behind them.
  template <class Type, bool is_last>
  static TRTCODER_INLINE F load(const typename Type::Value* p, int64_t columns) {
    if constexpr (!is_last) return Type::load(p);
    typename Type::Value last[16] = {};
    std::memcpy(last, p, columns * sizeof *p);
    return Type::load(last);
  }

  // Adds the products of the first `vectors` x 16 columns to the sums in `y`; `fetches` as many
  // bytes from `ahead` on.
  template <class Type, int tokens, int vectors, bool fetches, bool is_last = false>
  static TRTCODER_INLINE void multiply(const Part<typename Type::Value>& part,
                                       const std::byte* ahead) {
    constexpr bool is_scaled = kIsScaled<Type>;
    constexpr int64_t row_bytes = vectors * 16 * sizeof(typename Type::Value);
    const F zero = Lanes::broadcast(0.0f);
    F sum[tokens][vectors];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v)
        sum[t][v] = is_scaled || part.is_first
                        ? zero
                        : Lanes::load(part.y + t * part.y_stride + v * 16);
    const auto* values = part.values;
    for (int64_t k = 0; k < part.rows; ++k, values += part.outputs) {
      if constexpr (fetches) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < row_bytes; i += 64) Lanes::prefetch(ahead + i);
        ahead += row_bytes;
      }
      if constexpr (tokens == 1) {
        const F one = Lanes::broadcast(part.x[k]);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v)
          sum[0][v] =
              Lanes::fma(one, load<Type, is_last>(values + v * 16, part.columns), sum[0][v]);
        continue;
      }
      F w[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) w[v] = load<Type, is_last>(values + v * 16, part.columns);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) {
        const F one = Lanes::broadcast(part.x[t * part.x_stride + k]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[t][v] = Lanes::fma(one, w[v], sum[t][v]);
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) {
      F scale = zero;
      if constexpr (is_scaled) scale = load<Float16, is_last>(part.scales + v * 16, part.columns);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) {
        float* y = part.y + t * part.y_stride + v * 16;
        F all = sum[t][v];
        if constexpr (is_scaled)
          all = Lanes::fma(all, scale, part.is_first ? zero : Lanes::load(y));
        Lanes::store(y, all);
      }
    }
  }

  // All columns of a part. Few tokens fetch what is `ahead`, unless others have done so and it is
  // null.
  template <class Type, int tokens, int vectors>
  static void across(Part<typename Type::Value> part, Ahead* ahead) {
    constexpr int64_t bytes = vectors * 16 * sizeof(typename Type::Value);
    for (; part.columns >= vectors * 16; part = part.behind(vectors * 16)) {
      if (ahead)
        multiply<Type, tokens, vectors, true>(part, ahead->take(part.rows * bytes));
      else
        multiply<Type, tokens, vectors, false>(part, nullptr);
    }
    if constexpr (vectors > 1)
      across<Type, tokens, (vectors > 4 ? vectors / 4 : 1)>(part, ahead);
    else if (part.columns)
      multiply<Type, tokens, 1, false, true>(part, nullptr);
  }

  template <class Type, bool are_few>
  static void all_tokens(Part<typename Type::Value> part, int64_t tokens, Ahead* ahead) {
    const auto some = [&]<int count, int vectors>() {
      for (; tokens >= count; tokens -= count) {
        across<Type, count, vectors>(part, ahead);
        ahead = nullptr;
        part.x += count * part.x_stride, part.y += count * part.y_stride;
      }
    };
    if constexpr (kSums >= 16) {
      if constexpr (are_few) some.template operator()<8, 3>();
      some.template operator()<6, 4>();
    }
    some.template operator()<4, kSums / 4>();
    some.template operator()<2, kSums / (are_few ? 2 : 4)>();
    some.template operator()<1, kSums / (are_few ? 1 : 4)>();
  }

  template <class Type>
  static void multiply_all(const HeadMatrix& m, const float* x, int64_t tokens, float* y,
                           int64_t y_stride) {
    using Value = typename Type::Value;
    constexpr int64_t bytes = sizeof(Value);
    const auto part = [&](int64_t k, int64_t rows, int64_t n, int64_t columns) {
      const auto* scales = m.scales ? m.scales + k / m.block * m.outputs + n : nullptr;
      return Part<Value>{static_cast<const Value*>(m.values) + k * m.outputs + n, scales, m.outputs,
                         std::min(rows, m.inputs - k), std::min(columns, m.outputs - n), x + k,
                         m.inputs, y + n, y_stride, k == 0};
    };
    const int64_t many_rows = m.scales ? m.block : kManyRows;
    if (tokens <= kFewTokens || many_rows > kManyRows) {
      Ahead ahead(m, m.inputs * m.outputs * bytes);
      const int64_t rows =
          m.scales ? m.block : std::max<int64_t>(8, kStepBytes / (m.outputs * bytes));
      for (int64_t k = 0; k < m.inputs; k += rows)
        all_tokens<Type, true>(part(k, rows, 0, m.outputs), tokens, &ahead);
      return;
    }
    alignas(64) float widened[kManyRows * kManyColumns];
    for (int64_t n = 0; n < m.outputs; n += kManyColumns)
      for (int64_t k = 0; k < m.inputs; k += many_rows) {
        const Part<Value> from = part(k, many_rows, n, kManyColumns);
        widen<Type>(from, widened);
        all_tokens<Widened<kIsScaled<Type>>, false>(
            {widened, from.scales, kManyColumns, from.rows, from.columns, from.x,
             from.x_stride, from.y, from.y_stride, from.is_first},
            tokens, nullptr);
      }
  }

  // Writes a part as float32, kManyColumns from a row to the next, and fetches later rows.
  template <class Type>
  static void widen(const Part<typename Type::Value>& part, float* out) {
    const auto* values = part.values;
    const int64_t row = part.outputs * int64_t(sizeof *values);
    const int64_t ahead = (kManyAhead + row - 1) / row * row;
    for (int64_t k = 0; k < part.rows; ++k, values += part.outputs, out += kManyColumns) {
      const auto* at = reinterpret_cast<const std::byte*>(values) + ahead;
      for (int64_t i = 0; i < part.columns * int64_t(sizeof *values); i += 64)
        Lanes::prefetch(at + i);
      int64_t n = 0;
      for (; n + 16 <= part.columns; n += 16)
        Lanes::store(out + n, load<Type, false>(values + n, 16));
      if (n < part.columns)
        Lanes::store(out + n, load<Type, true>(values + n, part.columns - n));
    }
  }

  static void run(const HeadMatrix& m, const float* x, int64_t x_stride, int64_t tokens, float* y,
                  int64_t y_stride) {
    // Where they lie, all tokens' values might share a few lines of the nearest cache.
    Buffer<float> rows(x_stride == m.inputs ? 0 : tokens * m.inputs);
    if (x_stride != m.inputs) {
      for (int64_t t = 0; t < tokens; ++t)
        std::memcpy(rows.data() + t * m.inputs, x + t * x_stride, m.inputs * sizeof(float));
      x = rows.data();
    }
    const auto multiply = [&]<class Type>(Type) {
      multiply_all<Type>(m, x, tokens, y, y_stride);
    };
    switch (m.type) {
      case HeadWeights::Type::int8: return multiply(Int8{});
      case HeadWeights::Type::float32: return multiply(Float32{});
      case HeadWeights::Type::float16: return multiply(Float16{});
      case HeadWeights::Type::bfloat16: return multiply(Bfloat16{});
    }
  }
};

}  // namespace
}  // namespace trtcoder
