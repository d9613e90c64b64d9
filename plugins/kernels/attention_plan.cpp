#include "kernels/attention_plan.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>

namespace trtcoder {
namespace {

// Lanes of a tile: enough to read each row of the cache for several tokens of a prompt at once, few
// enough for the second-level cache.
constexpr int64_t kTileLanes = 128;
constexpr int64_t kMaxPosition = int64_t{1} << 30;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string number(int64_t n) { return std::to_string(n); }

void check_table(const AttentionBatch& batch, int64_t cache_blocks) {
  if (batch.blocks * kCacheBlock > kMaxPosition)
    refuse("block_table: " + number(batch.blocks) + " columns are too many");
  for (int64_t i = 0; i < batch.sequences * batch.blocks; ++i)
    if (batch.block_table[i] < -1 || batch.block_table[i] >= cache_blocks)
      refuse("block_table[" + number(i / batch.blocks) + ", " + number(i % batch.blocks) +
             "] is " + number(batch.block_table[i]) + "; the cache has " + number(cache_blocks) +
             " blocks, and -1 stands for none");
}

// Position of the first row of each sequence that exists, or kMaxPosition.
std::vector<int64_t> first_rows(const AttentionBatch& batch) {
  std::vector<int64_t> found(batch.sequences, kMaxPosition);
  for (int64_t s = 0; s < batch.sequences; ++s) {
    const int64_t* table = batch.block_table + s * batch.blocks;
    const int64_t* first =
        std::find_if(table, table + batch.blocks, [](int64_t block) { return block >= 0; });
    if (first != table + batch.blocks) found[s] = (first - table) * kCacheBlock;
  }
  return found;
}

void check_tokens(const AttentionBatch& batch, int64_t cache_rows) {
  const std::vector<int64_t> starts = first_rows(batch);
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const auto at = [&](const char* name) { return std::string(name) + "[" + number(t) + "] is "; };
    const int64_t sequence = batch.sequence_of[t], slot = batch.slots[t];
    const int64_t position = batch.positions[t];
    if (sequence < 0 || sequence >= batch.sequences)
      refuse(at("sequences") + number(sequence) + "; block_table has " + number(batch.sequences) +
             " rows");
    if (slot < 0 || slot >= cache_rows)
      refuse(at("slots") + number(slot) + "; the cache has " + number(cache_rows) + " rows");
    if (position < starts[sequence])
      refuse(at("positions") + number(position) + ", before the first block of block_table[" +
             number(sequence) + "]: the token sees no row");
  }
}

void check_slots(const AttentionBatch& batch) {
  std::vector<int64_t> slots(batch.slots, batch.slots + batch.tokens);
  std::sort(slots.begin(), slots.end());
  const auto twice = std::adjacent_find(slots.begin(), slots.end());
  if (twice != slots.end()) refuse("slots: " + number(*twice) + " is there twice");
}

int64_t last_row(const AttentionBatch& batch, int64_t token) {
  return std::min(batch.positions[token], batch.blocks * kCacheBlock - 1);
}

// What the busiest thread does if each of these, longest first, goes to the one with least.
int64_t longest_thread(const std::vector<int64_t>& sizes, size_t first, size_t threads) {
  if (sizes.size() - first <= threads) return sizes[first];
  std::vector<int64_t> loads(threads);  // a heap, the least in front
  for (size_t i = first; i < sizes.size(); ++i) {
    std::pop_heap(loads.begin(), loads.end(), std::greater<>());
    loads.back() += sizes[i];
    std::push_heap(loads.begin(), loads.end(), std::greater<>());
  }
  return *std::max_element(loads.begin(), loads.end());
}

// Tells which tiles are cut, the longest first: until the others fit into what each thread does in
// all, or an eighth more.
std::vector<char> tiles_to_cut(const std::vector<AttentionPlan::Tile>& tiles, int64_t work,
                               int threads) {
  std::vector<int64_t> order(tiles.size()), sizes;
  std::iota(order.begin(), order.end(), 0);
  const auto size = [&](int64_t i) { return tiles[i].ranges * tiles[i].lanes; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return size(a) > size(b); });
  for (const int64_t i : order) sizes.push_back(size(i));
  std::vector<char> is_cut(tiles.size());
  for (size_t i = 0; i < order.size() && tiles[order[i]].ranges > 1; ++i) {
    if (8 * threads * longest_thread(sizes, i, threads) <= 9 * work) break;
    is_cut[order[i]] = true;
  }
  return is_cut;
}

}  // namespace

void check(const AttentionBatch& batch, int64_t cache_rows) {
  check_table(batch, cache_rows / kCacheBlock);
  check_tokens(batch, cache_rows);
  check_slots(batch);
}

AttentionPlan::AttentionPlan(const AttentionShape& shape, const AttentionBatch& batch,
                             int threads) {
  std::vector<int64_t> ends(batch.sequences + 1);
  for (int64_t t = 0; t < batch.tokens; ++t) ++ends[batch.sequence_of[t] + 1];
  for (int64_t s = 0; s < batch.sequences; ++s) ends[s + 1] += ends[s];
  std::vector<int64_t> next(ends.begin(), ends.end() - 1);
  order.resize(batch.tokens);
  for (int64_t t = 0; t < batch.tokens; ++t) order[next[batch.sequence_of[t]]++] = t;

  const int64_t most = std::max<int64_t>(1, kTileLanes / shape.heads);
  int64_t work = 0;
  for (int64_t s = 0; s < batch.sequences; ++s)
    for (int64_t first = ends[s]; first < ends[s + 1]; first += most) {
      const int64_t tokens = std::min(most, ends[s + 1] - first);
      int64_t last = 0;
      for (int64_t i = 0; i < tokens; ++i)
        last = std::max(last, last_row(batch, order[first + i]));
      const int64_t lanes = round_up(tokens * shape.heads, kLaneStep);
      tiles.push_back({first, tokens, lanes, s, last / kRangeRows + 1, -1, 0});
      work += tiles.back().ranges * lanes;
    }

  const std::vector<char> is_cut = tiles_to_cut(tiles, work, threads);
  // As many spans as give all threads the same; what is left goes by ranges, whose states are one
  // more each to write and to merge.
  int64_t spans = 0;
  for (size_t i = 0; i < tiles.size(); ++i)
    if (is_cut[i]) spans += tiles[i].ranges / kSpanRanges;
  spans = spans / threads * threads;
  for (int64_t i = 0; i < int64_t(tiles.size()); ++i) {
    Tile& tile = tiles[i];
    if (!is_cut[i]) {
      turns.push_back({i, -1, tile.ranges * tile.lanes});
      continue;
    }
    tile.piece = int64_t(pieces.size());
    for (int64_t first = 0, step; first < tile.ranges; first += step) {
      const bool takes_span = spans > 0 && first + kSpanRanges <= tile.ranges;
      step = takes_span ? kSpanRanges : 1;
      spans -= takes_span;
      turns.push_back({i, int64_t(pieces.size()), step * tile.lanes});
      pieces.push_back({i, first, first + step});
    }
    tile.pieces = int64_t(pieces.size()) - tile.piece;
  }
  std::stable_sort(turns.begin(), turns.end(),
                   [](const Turn& a, const Turn& b) { return a.work > b.work; });
}

int64_t AttentionPlan::widest_tile() const {
  int64_t widest = 0;
  for (const Tile& tile : tiles) widest = std::max(widest, tile.lanes);
  return widest;
}

RangeRows collect_rows(const AttentionShape& shape, const AttentionBatch& batch,
                       const LatentCache& cache, int64_t sequence, int64_t range, int64_t last) {
  static constexpr int64_t kValueBytes[] = {4, 2, 2, 1, 1};
  const int64_t row_bytes = shape.width() * kValueBytes[static_cast<int>(cache.type)];
  const int64_t groups = cache.scales ? shape.width() / cache.group : 0;
  RangeRows rows;
  rows.count = 0;
  rows.first = static_cast<int32_t>(range * kRangeRows);
  for (int64_t start = rows.first; start < rows.first + kRangeRows; start += kCacheBlock) {
    if (start > last || start / kCacheBlock >= batch.blocks) break;
    const int64_t block = batch.block_table[sequence * batch.blocks + start / kCacheBlock];
    if (block < 0) continue;
    for (int64_t i = 0; i < kCacheBlock && start + i <= last; ++i) {
      const int64_t row = block * kCacheBlock + i;
      rows.offset[rows.count] = static_cast<int32_t>(start + i) - rows.first;
      rows.entries[rows.count] = static_cast<const std::byte*>(cache.entries) + row * row_bytes;
      rows.scales[rows.count++] = groups ? cache.scales + row * groups : nullptr;
    }
  }
  return rows;
}

}  // namespace trtcoder
