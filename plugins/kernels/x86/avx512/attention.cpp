#include "kernels/attention_loops.h"

#include "kernels/x86/avx512/attention_lanes.h"

namespace trtcoder {

const AttentionKernels avx512_attention = AttentionLoops<Avx512AttentionLanes>::table;

}  // namespace trtcoder
