#include "kernels/attention_loops.h"

#include "kernels/x86/amx/attention_range.h"

namespace trtcoder {
namespace {

using Loops = AttentionLoops<Avx512AttentionLanes>;

void attend(const RowFormat& format, const QueryLanes& queries, RangeRows& rows,
            const RangeRows& next, const State& state, bool is_empty, std::byte* scratch) {
  if (TileRange::takes(format))
    return Loops::attend_range<TileRange>(format, queries, rows, next, state, is_empty, scratch);
  Loops::attend(format, queries, rows, next, state, is_empty, scratch);
}

}  // namespace

const AttentionKernels amx_attention{Loops::table.project,   Loops::table.quantize_query,
                                     Loops::table.transpose, attend,
                                     Loops::table.fold,      Loops::table.finish};

}  // namespace trtcoder
