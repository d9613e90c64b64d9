#include "kernels/attention.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/attention_entries.h"
#include "kernels/attention_kernels.h"
#include "kernels/attention_plan.h"
#include "kernels/attention_projection.h"
#include "kernels/buffer.h"

namespace trtcoder {
namespace {

using Tile = AttentionPlan::Tile;
using Piece = AttentionPlan::Piece;

// Tokens whose entries a thread writes at once.
constexpr int64_t kEntries = 8;
// Rows of a mix that a thread merges at once.
constexpr int64_t kMergeRows = 48;
constexpr int64_t kChunk = HeadProjection::kMaxTokens;
// Tokens of a call: their queries and mixes, 70 KB a token of a Lite, stay near by and in memory that
// is kept.
constexpr int64_t kCallTokens = 2 * kChunk;

void check(const AttentionShape& shape, const LatentCache& cache) {
  const auto refuse = [](const std::string& what) { throw std::invalid_argument(what); };
  for (const int64_t size : {shape.heads, shape.nope, shape.latent, shape.value})
    if (size < 1 || size > 1 << 20) refuse("attention: a size is " + std::to_string(size));
  if (shape.rope < 2 || shape.rope % 2 || shape.rope > 1 << 20)
    refuse("attention: the rotated part is " + std::to_string(shape.rope) +
           " wide, expected pairs");
  const bool is_quantized = cache.type == CacheType::int8 || cache.type == CacheType::float8;
  if (is_quantized != (cache.scales != nullptr))
    refuse(is_quantized ? "cache: scales are missing" : "cache: scales of values that have none");
  if (!is_quantized) return;
  const int64_t group = cache.group;
  if (group < 1 || group > kScaleGroup || kScaleGroup % group || shape.latent % group ||
      shape.rope % group)
    refuse("cache: groups of " + std::to_string(group) +
           ", expected a divisor of 64 and of both parts of a row");
}

// A query is quantized where the cache is.
Arithmetic arithmetic_of(const AttentionKernels& kernels, const AttentionInputs& inputs,
                         const LatentCache& cache) {
  const bool fits = cache.type == CacheType::int8 && cache.group % 2 == 0;
  return fits && inputs.arithmetic == Arithmetic::int16 ? Arithmetic::int16 : kernels.floats;
}

// The inputs and the batch from token `first` on.
AttentionInputs inputs_from(AttentionInputs inputs, const AttentionShape& shape, int64_t first) {
  for (TokenRows* rows :
       {&inputs.query_nope, &inputs.query_rope, &inputs.latent, &inputs.key_rope})
    rows->values += first * rows->stride;
  inputs.cosines += first * shape.rope / 2;
  inputs.sines += first * shape.rope / 2;
  return inputs;
}
AttentionBatch batch_from(AttentionBatch batch, int64_t first, int64_t tokens) {
  batch.positions += first, batch.slots += first, batch.sequence_of += first;
  batch.tokens = tokens;
  return batch;
}

// Some tokens' attention, whose entries are in the cache.
class Call {
 public:
  Call(const AttentionKernels& kernels, const AttentionShape& shape, const AttentionInputs& inputs,
       const AttentionBatch& batch, const LatentCache& cache, int threads, float* out)
      : kernels_(kernels), shape_(shape), inputs_(inputs), batch_(batch), cache_(cache), out_(out),
        plan_(shape, batch, threads),
        absorb_key_(kernels_, inputs.absorb_key, shape.nope, shape.latent),
        absorb_value_(kernels_, inputs.absorb_value, shape.latent, shape.value),
        format_{cache.type, arithmetic_of(kernels_, inputs, cache), shape.latent, shape.width(),
                cache.scales ? cache.group : kScaleGroup},
        words_(format_.query_words()),
        groups_(format_.arithmetic == Arithmetic::int16 ? format_.groups() : 0),
        chunks_((batch.tokens + kChunk - 1) / kChunk),
        queries_(batch.tokens * shape.heads * words_),
        query_scales_(batch.tokens * shape.heads * groups_),
        mixed_(batch.tokens * shape.heads * shape.latent), has_rows_(plan_.pieces.size()),
        states_(place_states()) {}

  void run(const Member& member) {
    absorb_queries(member);
    member.barrier();
    attend(member);
    member.barrier();
    if (!plan_.pieces.empty()) {
      merge(member);
      member.barrier();
    }
    absorb_outputs(member);
  }

 private:
  int64_t state_floats(int64_t lanes) const { return lanes * (2 + format_.padded_latent()); }

  // Returns how many floats the states of all pieces take.
  int64_t place_states() {
    int64_t floats = 0;
    for (const Piece& piece : plan_.pieces) {
      piece_states_.push_back(floats);
      floats += state_floats(plan_.tiles[piece.tile].lanes);
    }
    return floats;
  }

  static State state_at(float* memory, int64_t lanes) {
    return {memory, memory + lanes, memory + 2 * lanes};
  }
  State piece_state(int64_t piece) {
    return state_at(states_.data() + piece_states_[piece],
                    plan_.tiles[plan_.pieces[piece].tile].lanes);
  }
  // What of a head a thread does at once: some tokens.
  struct Item {
    int64_t head;
    int64_t first;
    int64_t tokens;
  };

  // Takes the items of all heads. Each is taken before the one in front of it is done, so that its
  // weights are on their way.
  template <class Body>
  void each_item(Counter& counter, Body body) const {
    const int64_t count = chunks_ * shape_.heads;
    const auto item = [&](int64_t i) -> Item {
      const int64_t first = i % chunks_ * kChunk;
      return {i / chunks_, first, std::min(kChunk, batch_.tokens - first)};
    };
    bool is_fetched = false;
    for (int64_t i = counter.take(), next; i < count; i = next) {
      next = counter.take();
      const int64_t next_head = next < count ? item(next).head : -1;
      body(item(i), next_head, is_fetched);
      is_fetched = next_head >= 0;
    }
  }

  // Makes the query of each head in the latent space.
  void absorb_queries(const Member&) {
    Buffer<float> query(shape_.width());
    Buffer<float> nope(kChunk * shape_.nope);
    Buffer<float> absorbed(kChunk * absorb_key_.padded_outputs());
    each_item(absorbed_, [&](const Item& item, int64_t next, bool is_fetched) {
      // Tokens of a sequence may lie apart.
      for (int64_t i = 0; i < item.tokens; ++i)
        std::memcpy(nope.data() + i * shape_.nope,
                    inputs_.query_nope.values +
                        plan_.order[item.first + i] * inputs_.query_nope.stride +
                        item.head * shape_.nope,
                    shape_.nope * sizeof(float));
      absorb_key_.run(item.head, next, is_fetched, nope.data(), shape_.nope, item.tokens,
                      absorbed.data());
      keep_queries(item, absorbed.data(), query.data());
    });
  }

  // Rotates and scales queries, and rounds them where the cache is rounded. `memory` is a query's.
  void keep_queries(const Item& item, const float* absorbed, float* memory) {
    const auto [head, first, tokens] = item;
    const TokenRows& rope = inputs_.query_rope;
    for (int64_t i = 0; i < tokens; ++i, absorbed += absorb_key_.padded_outputs()) {
      const int64_t token = plan_.order[first + i], half = shape_.rope / 2;
      const int64_t row = (first + i) * shape_.heads + head;
      uint32_t* words = queries_.data() + row * words_;
      float* query = groups_ ? memory : reinterpret_cast<float*>(words);
      for (int64_t j = 0; j < shape_.latent; ++j) query[j] = absorbed[j] * inputs_.softmax_scale;
      float* rotated = query + shape_.latent;
      rotate(rope.values + token * rope.stride + head * shape_.rope,
             inputs_.cosines + token * half, inputs_.sines + token * half, shape_.rope, rotated);
      for (int64_t j = 0; j < shape_.rope; ++j) rotated[j] *= inputs_.softmax_scale;
      if (groups_)
        kernels_.quantize_query(format_, query, reinterpret_cast<int16_t*>(words),
                                query_scales_.data() + row * groups_);
    }
  }

  // A thread's queries as the kernels read them: those of one tile.
  struct Packed {
    Packed(int64_t lanes, int64_t words, int64_t groups)
        : words(lanes * words), scales(lanes * groups), last(lanes) {}
    int64_t tile = -1;
    Buffer<uint32_t> words;
    Buffer<float> scales;
    Buffer<int32_t> last;
    int64_t last_row = 0;
  };

  void pack(int64_t index, Packed& packed) {
    if (packed.tile == index) return;
    packed.tile = index;
    const Tile& tile = plan_.tiles[index];
    const int64_t row = tile.first * shape_.heads, rows = tile.tokens * shape_.heads;
    kernels_.pack_queries(format_, queries_.data() + row * words_, rows, tile.lanes,
                          packed.words.data());
    if (groups_)
      kernels_.transpose(query_scales_.data() + row * groups_, rows, groups_, packed.scales.data(),
                         tile.lanes);
    // Lanes without a head see what the first sees.
    packed.last_row = 0;
    for (int64_t lane = 0; lane < tile.lanes; ++lane) {
      const int64_t token = lane < rows ? plan_.order[tile.first + lane / shape_.heads]
                                        : plan_.order[tile.first];
      const int64_t last = std::min(batch_.positions[token], batch_.blocks * kCacheBlock - 1);
      packed.last[lane] = static_cast<int32_t>(last);
      packed.last_row = std::max(packed.last_row, last);
    }
  }

  RangeRows collect(const Packed& packed, int64_t range) const {
    return collect_rows(shape_, batch_, cache_, plan_.tiles[packed.tile].sequence, range,
                        packed.last_row);
  }

  // Makes a state of the ranges [first, last) of a tile; returns whether there is any row.
  bool attend_ranges(const Packed& packed, int64_t first, int64_t last, const State& state,
                     std::byte* scratch) {
    const Tile& tile = plan_.tiles[packed.tile];
    const int32_t* last_seen = packed.last.data();
    const QueryLanes queries{tile.lanes, packed.words.data(), packed.scales.data(), last_seen,
                             *std::min_element(last_seen, last_seen + tile.lanes)};
    bool is_empty = true;
    RangeRows rows, next = collect(packed, first);
    for (int64_t range = first; range < last; ++range) {
      rows = next;
      next.count = 0;
      if (range + 1 < last) next = collect(packed, range + 1);
      if (!rows.count) continue;
      kernels_.attend(format_, queries, rows, next, state, is_empty, scratch);
      is_empty = false;
    }
    return !is_empty;
  }

  void attend(const Member&) {
    const int64_t lanes = plan_.widest_tile();
    Packed packed(lanes, format_.packed_words(), groups_);
    Buffer<float> memory(2 * state_floats(lanes));
    Buffer<std::byte> scratch(scratch_bytes(format_));
    for (int64_t item; (item = attended_.take()) < int64_t(plan_.turns.size());) {
      const AttentionPlan::Turn& turn = plan_.turns[item];
      pack(turn.tile, packed);
      if (turn.piece >= 0) {
        const Piece& piece = plan_.pieces[turn.piece];
        has_rows_[turn.piece] = attend_ranges(packed, piece.first, piece.last,
                                              piece_state(turn.piece), scratch.data());
        continue;
      }
      const Tile& tile = plan_.tiles[turn.tile];
      const State all = state_at(memory.data(), tile.lanes);
      const State span = state_at(memory.data() + state_floats(tile.lanes), tile.lanes);
      bool is_empty = true;
      for (int64_t first = 0; first < tile.ranges; first += kSpanRanges) {
        const int64_t last = std::min(first + kSpanRanges, tile.ranges);
        if (!attend_ranges(packed, first, last, is_empty ? all : span, scratch.data())) continue;
        if (!is_empty) kernels_.fold(format_, tile.lanes, all, false, span, 0, format_.latent);
        is_empty = false;
      }
      finish(tile, all, 0, format_.latent);
    }
  }

  // Writes rows [start, stop) of the mix of a tile's heads.
  void finish(const Tile& tile, const State& state, int64_t start, int64_t stop) {
    kernels_.finish(format_, tile.lanes, state, start, stop, tile.tokens * shape_.heads,
                    mixed_.data() + tile.first * shape_.heads * shape_.latent, shape_.latent);
  }

  // Folds pieces as one thread would have, some rows of the mix at once.
  void merge(const Member&) {
    const int64_t parts = format_.padded_latent() / kMergeRows;
    Buffer<float> memory(2 * state_floats(plan_.widest_tile()));
    for (int64_t item; (item = merged_.take()) < parts * int64_t(plan_.tiles.size());) {
      const Tile& tile = plan_.tiles[item / parts];
      if (tile.pieces) merge_rows(tile, item % parts * kMergeRows, memory.data());
    }
  }

  void merge_rows(const Tile& tile, int64_t start, float* memory) {
    const int64_t stop = std::min(start + kMergeRows, format_.latent);
    const State all = state_at(memory, tile.lanes);
    const State span = state_at(memory + state_floats(tile.lanes), tile.lanes);
    bool is_empty = true;
    for (int64_t p = tile.piece; p < tile.piece + tile.pieces;) {
      const Piece& piece = plan_.pieces[p];
      const int64_t end = piece.first / kSpanRanges * kSpanRanges + kSpanRanges;
      const State& into = is_empty ? all : span;
      bool span_is_empty = true;
      for (; p < tile.piece + tile.pieces && plan_.pieces[p].first < end; ++p) {
        if (!has_rows_[p]) continue;
        kernels_.fold(format_, tile.lanes, into, span_is_empty, piece_state(p), start, stop);
        span_is_empty = false;
      }
      if (span_is_empty) continue;
      if (!is_empty) kernels_.fold(format_, tile.lanes, all, false, span, start, stop);
      is_empty = false;
    }
    if (start < stop) finish(tile, all, start, stop);
  }

  // Brings each head's mix out of the latent space.
  void absorb_outputs(const Member&) {
    const int64_t padded = absorb_value_.padded_outputs(), row = shape_.heads * shape_.latent;
    Buffer<float> values(kChunk * padded);
    each_item(finished_, [&](const Item& item, int64_t next, bool is_fetched) {
      const float* mixed = mixed_.data() + item.first * row + item.head * shape_.latent;
      absorb_value_.run(item.head, next, is_fetched, mixed, row, item.tokens, values.data());
      for (int64_t i = 0; i < item.tokens; ++i)
        std::memcpy(out_ + (plan_.order[item.first + i] * shape_.heads + item.head) * shape_.value,
                    values.data() + i * padded, shape_.value * sizeof(float));
    });
  }

  const AttentionKernels& kernels_;
  const AttentionShape& shape_;
  const AttentionInputs inputs_;
  const AttentionBatch batch_;
  const LatentCache& cache_;
  float* out_;
  const AttentionPlan plan_;
  const HeadProjection absorb_key_;
  const HeadProjection absorb_value_;
  const RowFormat format_;
  const int64_t words_;   // of a query
  const int64_t groups_;  // scales of a query, 0 where it is float32
  const int64_t chunks_;
  Buffer<uint32_t> queries_;      // [tokens, heads][words]
  Buffer<float> query_scales_;    // [tokens, heads][groups]
  Buffer<float> mixed_;           // [tokens, heads][latent]
  std::vector<char> has_rows_;    // [pieces]
  std::vector<int64_t> piece_states_;
  Buffer<float> states_;          // of the pieces
  Counter absorbed_, attended_, merged_, finished_;
};

}  // namespace

void latent_attention(Isa isa, Team& team, const AttentionShape& shape,
                      const AttentionInputs& inputs, const AttentionBatch& batch,
                      const LatentCache& cache, float* out) {
  check(shape, cache);
  if (batch.tokens < 1) return;
  check(batch, cache.rows);
  // A token may see entries of any other.
  Counter written;
  const auto write_entries = [&] {
    Buffer<float> entry(shape.width());
    for (int64_t first; (first = written.take(kEntries)) < batch.tokens;)
      for (int64_t t = first; t < std::min(first + kEntries, batch.tokens); ++t) {
        make_entry(shape, inputs, t, entry.data());
        write_entry(shape, cache, batch.slots[t], entry.data());
      }
  };
  for (int64_t first = 0; first < batch.tokens; first += kCallTokens) {
    Call call(attention_kernels(isa), shape, inputs_from(inputs, shape, first),
              batch_from(batch, first, std::min(kCallTokens, batch.tokens - first)), cache,
              team.size(), out + first * shape.heads * shape.value);
    team.run([&](const Member& member) {
      if (first == 0) write_entries();
      call.run(member);
    });
  }
}

}  // namespace trtcoder
