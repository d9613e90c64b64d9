#include "kernels/attention_c_api.h"

#include "kernels/attention.h"
#include "kernels/guarded.h"
#include "kernels/isa.h"

using namespace trtcoder;

const char* trtcoder_latent_attention(const char* isa, const trtcoder_attention* call) {
  return guarded([&] {
    const trtcoder_attention& c = *call;
    const auto weights = [&](const void* values, const uint16_t* scales) {
      return HeadWeights{static_cast<HeadWeights::Type>(c.weight_type), values, scales,
                         c.weight_block};
    };
    const AttentionInputs inputs{{c.query_nope, c.query_nope_stride},
                                 {c.query_rope, c.query_rope_stride},
                                 {c.latents, c.latent_stride},
                                 {c.key_rope, c.key_rope_stride},
                                 c.norm,
                                 c.epsilon,
                                 c.cosines,
                                 c.sines,
                                 weights(c.absorb_key, c.absorb_key_scales),
                                 weights(c.absorb_value, c.absorb_value_scales),
                                 c.softmax_scale,
                                 static_cast<Arithmetic>(c.arithmetic)};
    latent_attention(isa_named(isa), process_team(),
                     {c.heads, c.nope, c.rope, c.latent, c.value}, inputs,
                     {c.tokens, c.sequences, c.blocks, c.positions, c.slots, c.sequence_of,
                      c.block_table},
                     {static_cast<CacheType>(c.cache_type), c.entries, c.scales, c.rows, c.group},
                     c.out);
  });
}
