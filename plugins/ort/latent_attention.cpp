#include <cstring>
#include <string>

#include "kernels/attention.h"
#include "ort/operators.h"

namespace ort {
namespace {

using trtcoder::AttentionShape;
using trtcoder::CacheType;
using trtcoder::HeadWeights;

// Columns of a projection's output, from an attribute.
trtcoder::TokenRows columns(const Tensor& rows, const char* what, int64_t tokens, int64_t start,
                            int64_t width) {
  if (rows.rank != 2 || rows.dims[0] != tokens || start < 0 || start + width > rows.dims[1])
    throw std::invalid_argument(std::string(what) + ": columns " + std::to_string(start) + " to " +
                                std::to_string(start + width) + " of " + rows.shape() + " for " +
                                std::to_string(tokens) + " tokens");
  return {rows.as<const float>() + start, rows.dims[1]};
}

CacheType cache_type(ElementType type) {
  switch (type) {
    case kFloat: return CacheType::float32;
    case kHalf: return CacheType::float16;
    case kBfloat: return CacheType::bfloat16;
    case kInt8: return CacheType::int8;
    case kUint8: return CacheType::float8;
    default:
      throw std::invalid_argument("cache: expected float32, float16, bfloat16, int8 or uint8");
  }
}

// Absorbed latent attention with everything between the projections: norm, rotary embedding, the
// cache, W_UK and W_UV.
//
// Inputs: query and latent, float32 [tokens, columns], which may be one tensor; the norm's weight
// [latent]; cos and sin [1, tokens, rope / 2]; positions, slots and sequences [tokens];
// block_table [sequences, blocks]; W_UK, then W_UV, three inputs each: values [heads, inputs, outputs]
// in int8, float32, float16 or bfloat16, scales float16 [heads, inputs / block, outputs] of int8, and
// one that is left empty; the cache [rows, latent + rope], and its scales [rows, groups] where it is
// int8, or uint8 for float8's bits.
//
// Outputs: the heads' values [tokens, heads * value]; the cache and its scales. These are written
// in place where input and output are bound to one buffer, and copied where they are not.
//
// Attributes: heads, nope, rope, latent, value; the first columns nope_start and rope_start of
// `query`, latent_start and key_rope_start of `latent`; scale, epsilon; bits and block of W_UK and
// W_UV, 8 of int8 and 0 of others; int16, whether an int8 cache is multiplied as whole numbers.
struct LatentAttention {
  static constexpr const char* kName = "LatentAttention";
  static constexpr Argument kInputs[] = {
      {kFloat}, {kFloat}, {kFloat}, {kFloat},       {kFloat},       {kInt64},
      {kInt64}, {kInt64}, {kInt64}, {kAny},         {kHalf, true},  {kUint8, true},
      {kAny},   {kHalf, true},      {kUint8, true}, {kAny},         {kFloat, true}};
  static constexpr Argument kOutputs[] = {{kFloat}, {kAny}, {kFloat, true}};
  static constexpr Alias kAliases[] = {{15, 1}, {16, 2}};

  explicit LatentAttention(const Attributes& attributes)
      : shape{attributes.size("heads"), attributes.size("nope"), attributes.size("rope"),
              attributes.size("latent"), attributes.size("value")},
        nope_start(attributes.size("nope_start")), rope_start(attributes.size("rope_start")),
        latent_start(attributes.size("latent_start")),
        key_rope_start(attributes.size("key_rope_start")), scale(attributes.number("scale")),
        epsilon(attributes.number("epsilon")), bits(attributes.size("bits")),
        block(attributes.size("block")),
        arithmetic(attributes.size("int16") ? trtcoder::Arithmetic::int16
                                               : trtcoder::Arithmetic::float32) {
    if (bits != (block ? 8 : 0))
      throw std::invalid_argument("bits: " + std::to_string(bits) + " and block: " +
                                  std::to_string(block) + ", expected 8 and a block, or 0 and 0");
  }

  HeadWeights weights(const Call& call, size_t first, int64_t inputs, int64_t outputs) const {
    const Tensor values = call.input(first), scales = call.input(first + 1);
    values.expect("weights of the heads", {shape.heads, inputs, outputs});
    using Type = HeadWeights::Type;
    if (bits) {
      if (values.type != kInt8)
        throw std::invalid_argument("weights of the heads: expected int8");
      scales.expect("scales of the heads", {shape.heads, (inputs + block - 1) / block, outputs});
      return {Type::int8, values.data, scales.as<uint16_t>(), block};
    }
    switch (values.type) {
      case kFloat: return {Type::float32, values.data, nullptr, 0};
      case kHalf: return {Type::float16, values.data, nullptr, 0};
      case kBfloat: return {Type::bfloat16, values.data, nullptr, 0};
      default:
        throw std::invalid_argument("weights of the heads: expected float32, float16 or bfloat16");
    }
  }

  // Returns an output of an input's shape and content, and nothing where the input is left out.
  static Tensor carried(const Call& call, const Tensor& from, size_t index, int64_t bytes) {
    if (!from.data) return {};
    const Tensor to = call.output(index, {from.dims[0], from.dims[1]});
    if (to.data != from.data) std::memcpy(to.data, from.data, from.count() * bytes);
    return to;
  }

  void compute(const Call& call) {
    const Tensor query = call.input(0), latent = call.input(1), norm = call.input(2);
    const Tensor cosines = call.input(3), sines = call.input(4), positions = call.input(5);
    const Tensor slots = call.input(6), sequences = call.input(7), table = call.input(8);
    const Tensor cache = call.input(15), scales = call.input(16);
    const int64_t tokens = positions.rank ? positions.dims[0] : 0, half = shape.rope / 2;
    norm.expect("norm", {shape.latent});
    cosines.expect("cos", {1, tokens, half});
    sines.expect("sin", {1, tokens, half});
    positions.expect("positions", {tokens});
    slots.expect("slots", {tokens});
    sequences.expect("sequences", {tokens});
    if (table.rank != 2) throw std::invalid_argument("block_table: " + table.shape());
    const int64_t rows = cache.rank ? cache.dims[0] : 0;
    cache.expect("cache", {rows, shape.width()});
    const CacheType type = cache_type(cache.type);
    const bool is_quantized = type == CacheType::int8 || type == CacheType::float8;
    int64_t group = 0;
    if (is_quantized) {
      const int64_t groups = scales.rank == 2 ? scales.dims[1] : 0;
      scales.expect("cache scales", {rows, groups});
      if (groups < 1 || shape.width() % groups)
        throw std::invalid_argument("cache scales: " + scales.shape());
      group = shape.width() / groups;
    }
    const trtcoder::AttentionInputs inputs{
        columns(query, "query", tokens, nope_start, shape.heads * shape.nope),
        columns(query, "query", tokens, rope_start, shape.heads * shape.rope),
        columns(latent, "latent", tokens, latent_start, shape.latent),
        columns(latent, "latent", tokens, key_rope_start, shape.rope),
        norm.as<float>(),
        epsilon,
        cosines.as<float>(),
        sines.as<float>(),
        weights(call, 9, shape.nope, shape.latent),
        weights(call, 12, shape.latent, shape.value),
        scale,
        arithmetic};
    const int64_t bytes = type == CacheType::float32 ? 4 : is_quantized ? 1 : 2;
    const Tensor written = carried(call, cache, 1, bytes);
    const Tensor written_scales = carried(call, is_quantized ? scales : Tensor{}, 2, 4);
    const Tensor out = call.output(0, {tokens, shape.heads * shape.value});
    trtcoder::latent_attention(
        trtcoder::isa_chosen(), trtcoder::process_team(), shape, inputs,
        {tokens, table.dims[0], table.dims[1], positions.as<int64_t>(), slots.as<int64_t>(),
         sequences.as<int64_t>(), table.as<int64_t>()},
        {type, written.data, written_scales.as<float>(), rows, group}, out.as<float>());
  }

  const AttentionShape shape;
  const int64_t nope_start;
  const int64_t rope_start;
  const int64_t latent_start;
  const int64_t key_rope_start;
  const float scale;
  const float epsilon;
  const int64_t bits;
  const int64_t block;
  const trtcoder::Arithmetic arithmetic;
};

}  // namespace

const Op* latent_attention_op() { return describe<LatentAttention>(); }

}  // namespace ort
