// Makes a call of one of our operators out of any bytes: most are right, some are wrong in one
// place. Whatever they are, the operator either refuses and leaves the cache as it was, or computes
// without touching memory that is not its own.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "fuzz/calls.h"

namespace fuzz {
namespace {

using namespace ort;

// Choices are made by the bytes of the input, in order; behind its end they are all the first.
class Bytes {
 public:
  explicit Bytes(std::span<const uint8_t> bytes) : bytes_(bytes) {
    for (uint8_t byte : bytes) noise_ = (noise_ ^ byte) * 0x100000001b3;
  }

  uint8_t byte() {
    if (bytes_.empty()) return 0;
    const uint8_t found = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return found;
  }
  template <class T, size_t count>
  T one_of(const T (&values)[count]) {
    return values[byte() % count];
  }
  int64_t up_to(int64_t most) { return byte() % (most + 1); }
  bool flag() { return byte() & 1; }

  // The same for the same input, and no choice.
  uint32_t noise() {
    noise_ = noise_ * 6364136223846793005 + 1442695040888963407;
    return uint32_t(noise_ >> 32);
  }

 private:
  std::span<const uint8_t> bytes_;
  uint64_t noise_ = 0xcbf29ce484222325;
};

void fill_floats(Bytes& bytes, Tensor& t, float most = 1.0f) {
  for (int64_t i = 0; i < t.count(); ++i) {
    const float value = most * (float(bytes.noise()) * 0x1p-31f - 1.0f);
    std::memcpy(t.memory.data() + i * 4, &value, 4);
  }
}

// Small finite numbers of 16 bits, by their upper byte.
void fill_halves(Bytes& bytes, Tensor& t, uint8_t exponent) {
  for (int64_t i = 0; i < t.count(); ++i) {
    const uint32_t noise = bytes.noise();
    t.memory.data()[2 * i] = uint8_t(noise);
    t.memory.data()[2 * i + 1] = uint8_t(exponent | (noise >> 8 & 0x81));
  }
}

void fill_bytes(Bytes& bytes, Tensor& t) {
  for (size_t i = 0; i < t.memory.size(); ++i) t.memory.data()[i] = uint8_t(bytes.noise());
}

void fill_indices(Tensor& t, std::span<const int64_t> values) {
  // Of no tokens there is nothing to copy from.
  if (!values.empty()) std::memcpy(t.memory.data(), values.data(), t.memory.size());
}

Tensor& add(Node& node, ElementType type, std::vector<int64_t> shape, bool is_weight = false) {
  node.inputs.push_back(tensor(type, std::move(shape), is_weight));
  return node.inputs.back();
}

Tensor floats(Bytes& bytes, std::vector<int64_t> shape) {
  Tensor made = tensor(kFloat, std::move(shape));
  fill_floats(bytes, made);
  return made;
}

constexpr int kBits[] = {4, 8}, kBlocks[] = {32, 64, 128};

// A matrix' bits and block.
struct Form {
  int bits;
  int block;

  bool is_float() const { return bits == 32; }
};

// Of the bytes that choose the bits an eighth stands for float32.
Form make_form(Bytes& bytes) {
  const uint8_t kind = bytes.byte();
  const int block = bytes.one_of(kBlocks);
  return kind < 0xe0 ? Form{kBits[kind % 2], block} : Form{32, 0};
}

// Adds the inputs of `count` matrices.
void add_matrices(Bytes& bytes, Node& node, const std::string& role, int64_t count, int64_t rows,
                  int64_t width, const Form& form) {
  const auto [bits, block] = form;
  node.integers[role + "bits"] = bits;
  node.integers[role + "block"] = block;
  const int64_t panels = count * ((rows + 15) / 16);
  if (form.is_float()) {
    fill_floats(bytes, add(node, kFloat, {panels, width * 16}, true));
    add(node, kHalf, {0}).is_there = false;
    add(node, kUint8, {0}).is_there = false;
    return;
  }
  const int64_t blocks = (width + block - 1) / block;
  fill_bytes(bytes, add(node, kUint8, {panels, blocks * block * 2 * bits}, true));
  fill_halves(bytes, add(node, kHalf, {panels, blocks * 16}, true), 0x20);
  Tensor& zeros =
      add(node, kUint8, {panels, (bits == 4 ? (blocks + 1) / 2 : blocks) * 16}, true);
  fill_bytes(bytes, zeros);
  zeros.is_there = bytes.flag();
}

constexpr int64_t kWidths[] = {64, 1, 16, 31, 32, 70, 96, 130};
constexpr int64_t kRows[] = {16, 1, 17, 32, 50};
constexpr int64_t kTokens[] = {1, 2, 3, 70, 12, 13, 0, 33};

const char* make_linear(Bytes& bytes, Node& node) {
  const int64_t tokens = bytes.one_of(kTokens), width = bytes.one_of(kWidths);
  const int64_t rows = bytes.one_of(kRows);
  const Form form = make_form(bytes);
  node.integers = {{"N", rows}, {"K", width}};
  node.inputs.push_back(floats(bytes, {tokens, width}));
  add_matrices(bytes, node, "", 1, rows, width, form);
  node.outputs[0] = {};
  return "Linear";
}

// The matrices of `count` MLPs.
void add_mlps(Bytes& bytes, Node& node, const std::string& role, int64_t count, int64_t hidden,
              int64_t inner) {
  const Form gate_up = make_form(bytes), chosen = make_form(bytes);
  // Both are float32, or neither.
  const Form down = gate_up.is_float() == chosen.is_float() ? chosen : gate_up;
  const int64_t rows = (inner + 15) / 16 * 32;
  add_matrices(bytes, node, role + "_gate_up_", count, rows, hidden, gate_up);
  add_matrices(bytes, node, role + "_down_", count, hidden, inner, down);
}

const char* make_rms_norm(Bytes& bytes, Node& node) {
  const int64_t tokens = bytes.one_of(kTokens), width = bytes.one_of(kWidths);
  node.numbers = {{"epsilon", 1e-6f}};
  node.inputs.push_back(floats(bytes, {tokens, width}));
  node.inputs.push_back(floats(bytes, {width}));
  node.inputs.push_back(floats(bytes, {tokens, width}));
  node.inputs.back().is_there = bytes.flag();
  node.outputs[0] = {};
  if (node.inputs.back().is_there) node.outputs[1] = {};
  return "RmsNorm";
}

const char* make_mlp(Bytes& bytes, Node& node) {
  const int64_t tokens = bytes.one_of(kTokens), hidden = bytes.one_of(kWidths);
  const int64_t inner = bytes.one_of(kWidths);
  node.integers = {{"hidden", hidden}, {"inner", inner}};
  node.inputs.push_back(floats(bytes, {tokens, hidden}));
  add_mlps(bytes, node, "shared", 1, hidden, inner);
  node.outputs[0] = {};
  return "Mlp";
}

const char* make_experts(Bytes& bytes, Node& node) {
  const int64_t tokens = bytes.one_of(kTokens), hidden = bytes.one_of(kWidths);
  const int64_t inner = bytes.one_of(kWidths), size = 1 + bytes.up_to(3);
  const int64_t groups = 1 + bytes.up_to(3), top_groups = 1 + bytes.up_to(groups - 1);
  const int64_t top_k = 1 + bytes.up_to(size * top_groups - 1), experts = groups * size;
  const int64_t shared = bytes.flag() ? bytes.one_of(kWidths) : 0;
  node.integers = {{"hidden", hidden}, {"inner", inner},   {"experts", experts},
                   {"top_k", top_k},   {"groups", groups}, {"top_groups", top_groups},
                   {"normalize", bytes.flag()}, {"shared_inner", shared}};
  node.numbers = {{"scale", 1.5f}};
  node.inputs.push_back(floats(bytes, {tokens, hidden}));
  if (bytes.flag())
    fill_halves(bytes, add(node, kBfloat, {experts, hidden}), 0x3e);
  else
    fill_floats(bytes, add(node, kFloat, {experts, hidden}));
  add_mlps(bytes, node, "experts", experts, hidden, inner);
  if (shared) add_mlps(bytes, node, "shared", 1, hidden, shared);
  node.outputs[0] = {};
  if (bytes.flag()) node.outputs[1] = {};
  return "Experts";
}

// Sequences that share no blocks, each with its last tokens in the batch.
struct Batch {
  std::vector<int64_t> positions, slots, sequence_of, table;
  int64_t sequences, blocks;

  Batch(Bytes& bytes, int64_t cache_blocks) {
    sequences = 1 + bytes.up_to(std::min<int64_t>(3, cache_blocks) - 1);
    blocks = 1 + bytes.up_to(cache_blocks / sequences - 1);
    table.assign(sequences * blocks, -1);
    int64_t next = bytes.up_to(cache_blocks - 1);
    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t length = 1 + bytes.byte() * 256 % (blocks * 16), some = bytes.up_to(19);
      for (int64_t b = 0; b * 16 < length; ++b) table[s * blocks + b] = next++ % cache_blocks;
      for (int64_t p = std::max<int64_t>(0, length - some); p < length; ++p) {
        positions.push_back(p);
        sequence_of.push_back(s);
        slots.push_back(table[s * blocks + p / 16] * 16 + p % 16);
      }
    }
  }
};

const char* make_attention(Bytes& bytes, Node& node) {
  constexpr int64_t kHeads[] = {2, 1, 3, 16};
  constexpr int64_t kNope[] = {8, 32, 33}, kRope[] = {4, 2, 64}, kLatent[] = {16, 64, 40, 128};
  constexpr int64_t kValue[] = {8, 16, 33};
  constexpr ElementType kCaches[] = {kFloat, kHalf, kBfloat, kInt8, kUint8};
  constexpr ElementType kValues[] = {kFloat, kHalf, kBfloat};
  const int64_t heads = bytes.one_of(kHeads), nope = bytes.one_of(kNope);
  const int64_t rope = bytes.one_of(kRope), latent = bytes.one_of(kLatent);
  const int64_t value = bytes.one_of(kValue), width = latent + rope;
  const bool is_int8 = bytes.flag();
  const int block = bytes.one_of(kBlocks);
  const ElementType cache_type = bytes.one_of(kCaches), value_type = bytes.one_of(kValues);
  const int64_t cache_blocks = 1 + bytes.up_to(11);
  const Batch batch(bytes, cache_blocks);
  const auto tokens = int64_t(batch.positions.size());
  node.integers = {{"heads", heads}, {"nope", nope}, {"rope", rope}, {"latent", latent},
                   {"value", value}, {"nope_start", 0}, {"rope_start", heads * nope},
                   {"latent_start", 0}, {"key_rope_start", latent}, {"bits", is_int8 ? 8 : 0},
                   {"block", is_int8 ? block : 0}, {"int16", bytes.flag()}};
  node.numbers = {{"scale", 0.3f}, {"epsilon", 1e-6f}};
  node.inputs.reserve(17);
  node.inputs.push_back(floats(bytes, {tokens, heads * (nope + rope)}));
  node.inputs.push_back(floats(bytes, {tokens, width}));
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{latent}, {1, tokens, rope / 2}, {1, tokens, rope / 2}})
    node.inputs.push_back(floats(bytes, shape));
  for (const auto* indices : {&batch.positions, &batch.slots, &batch.sequence_of})
    fill_indices(add(node, kInt64, {tokens}), *indices);
  fill_indices(add(node, kInt64, {batch.sequences, batch.blocks}), batch.table);
  for (int which = 0; which < 2; ++which) {
    const int64_t inputs = which ? latent : nope, outputs = which ? value : latent;
    Tensor& values = add(node, is_int8 ? kInt8 : value_type, {heads, inputs, outputs}, true);
    if (is_int8) fill_bytes(bytes, values);
    else value_type == kFloat ? fill_floats(bytes, values) : fill_halves(bytes, values, 0x30);
    const int64_t blocks = is_int8 ? (inputs + block - 1) / block : 0;
    Tensor& scales = add(node, kHalf, {heads, blocks, outputs}, true);
    fill_halves(bytes, scales, 0x20);
    scales.is_there = is_int8;
    add(node, kUint8, {0}).is_there = false;
  }
  int64_t group = 64;
  while (latent % group || rope % group) group /= 2;
  Tensor& cache = add(node, cache_type, {cache_blocks * 16, width});
  if (cache_type == kFloat) fill_floats(bytes, cache, 3.0f);
  else if (cache_type == kHalf || cache_type == kBfloat) fill_halves(bytes, cache, 0x3c);
  else fill_bytes(bytes, cache);
  const bool has_scales = cache_type == kInt8 || cache_type == kUint8;
  Tensor& scales = add(node, kFloat, {has_scales ? cache_blocks * 16 : 0, width / group});
  fill_floats(bytes, scales, 0.02f);
  scales.is_there = has_scales;
  node.aliases = {{1, 15}, {2, 16}};
  node.outputs[0] = {};
  return "LatentAttention";
}

constexpr int64_t kOdd[] = {0, -1, 1, 2, 7, 15, 16, 31, 512, 1 << 20, int64_t{1} << 31,
                            int64_t{1} << 40, int64_t{1} << 62, INT64_MAX, INT64_MIN};

// Makes one thing wrong, if anything.
void spoil(Bytes& bytes, Node& node) {
  const uint8_t kind = bytes.byte() % 8;
  Tensor& input = node.inputs[bytes.byte() % node.inputs.size()];
  if (kind == 1 && !node.integers.empty()) {
    auto attribute = node.integers.begin();
    std::advance(attribute, bytes.byte() % node.integers.size());
    attribute->second = bytes.flag() ? bytes.one_of(kOdd) : attribute->second + bytes.up_to(2) - 1;
  } else if (kind == 2 && !input.shape.empty()) {
    std::vector<int64_t> shape = input.shape;
    int64_t& size = shape[bytes.byte() % shape.size()];
    size = std::max<int64_t>(0, bytes.flag() ? size + bytes.up_to(2) - 1 : bytes.up_to(40));
    if (bytes.flag()) std::swap(shape.front(), shape.back());
    const bool is_there = input.is_there;
    input = tensor(input.type, shape);
    input.is_there = is_there;
    if (input.type != kInt64) fill_bytes(bytes, input);
  } else if (kind == 3) {
    input.is_there = false;
  } else if (kind >= 4 && kind <= 5 && input.type == kInt64 && input.count()) {
    const int64_t value = bytes.one_of(kOdd), at = bytes.byte() % input.count();
    std::memcpy(input.memory.data() + at * 8, &value, 8);
  } else if (kind == 6 && input.type == kFloat && input.count()) {
    const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e-40f};
    const float value = bytes.one_of(values);
    std::memcpy(input.memory.data() + bytes.noise() % input.count() * 4, &value, 4);
  }
}

uint64_t mix(uint64_t digest, const uint8_t* data, size_t size) {
  for (size_t i = 0; i < size; ++i) digest = (digest ^ data[i]) * 0x100000001b3;
  return digest;
}

// Of the values of a tensor; all NaN are one.
uint64_t digest_of(const Tensor& t, uint64_t digest) {
  if (t.type != kFloat) return mix(digest, t.memory.data(), t.memory.size());
  for (int64_t i = 0; i < t.count(); ++i) {
    float value;
    std::memcpy(&value, t.memory.data() + i * 4, 4);
    if (std::isnan(value)) value = NAN;
    uint8_t bits[4];
    std::memcpy(bits, &value, 4);
    digest = mix(digest, bits, 4);
  }
  return digest;
}

[[noreturn]] void fail(const char* op, const char* what) {
  std::fprintf(stderr, "%s: %s\n", op, what);
  std::abort();
}

}  // namespace

Outcome call(std::span<const uint8_t> input) {
  using Maker = const char* (*)(Bytes&, Node&);
  constexpr Maker kMakers[] = {make_attention, make_linear, make_experts, make_mlp,
                                make_rms_norm};
  Bytes bytes(input);
  Node node;
  const uint8_t spoiled = bytes.byte();
  const char* op = bytes.one_of(kMakers)(bytes, node);
  for (int i = 0; i < spoiled % 3; ++i) spoil(bytes, node);
  const auto cache_digest = [&] {
    uint64_t digest = 0;
    for (const auto& [output, index] : node.aliases) digest = digest_of(node.inputs[index], digest);
    return digest;
  };
  const uint64_t before = cache_digest();
  Outcome outcome{op, run(op, node), 0};
  if (!outcome.refusal.empty() && cache_digest() != before)
    fail(op, "refused after the cache was written");
  for (const Tensor& t : node.inputs)
    if (!t.memory.is_intact()) fail(op, "wrote behind an input");
  for (const auto& [index, t] : node.outputs) {
    if (!t.memory.is_intact()) fail(op, "wrote behind an output");
    if (outcome.refusal.empty()) outcome.digest = digest_of(t, outcome.digest);
  }
  if (outcome.refusal.empty()) outcome.digest ^= cache_digest();
  return outcome;
}

}  // namespace fuzz

// What libFuzzer calls.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::call({data, size});
  return 0;
}
