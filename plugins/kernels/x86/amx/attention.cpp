#include "kernels/attention_loops.h"

#include "kernels/x86/amx/attention_parts.h"
#include "kernels/x86/amx/attention_range.h"
#include "kernels/x86/amx/project.h"

namespace trtcoder {
namespace {

using Loops = AttentionLoops<Avx512AttentionLanes>;

bool in_parts(const RowFormat& format) { return format.arithmetic == Arithmetic::bfloat_parts; }

void project(const HeadMatrix& weights, const float* x, int64_t x_stride, int64_t tokens, float* y,
             int64_t y_stride) {
  const auto project = TileProjection::takes(weights) ? TileProjection::run : Loops::table.project;
  project(weights, x, x_stride, tokens, y, y_stride);
}

void pack_queries(const RowFormat& format, const uint32_t* words, int64_t count, int64_t lanes,
                  uint32_t* out) {
  const auto pack = in_parts(format) ? PartsRange::pack_queries : Loops::table.pack_queries;
  pack(format, words, count, lanes, out);
}

void attend(const RowFormat& format, const QueryLanes& queries, RangeRows& rows,
            const RangeRows& next, const State& state, bool is_empty, std::byte* scratch) {
  const auto attend = in_parts(format)             ? Loops::attend_range<PartsRange>
                      : TileRange::takes(format) ? Loops::attend_range<TileRange>
                                                 : Loops::table.attend;
  attend(format, queries, rows, next, state, is_empty, scratch);
}

void fold(const RowFormat& format, int64_t lanes, const State& state, bool is_empty,
          const State& part, int64_t start, int64_t stop) {
  const auto fold = in_parts(format) ? LaneStates::fold : Loops::table.fold;
  fold(format, lanes, state, is_empty, part, start, stop);
}

void finish(const RowFormat& format, int64_t lanes, const State& state, int64_t start,
            int64_t stop, int64_t count, float* out, int64_t stride) {
  const auto finish = in_parts(format) ? LaneStates::finish : Loops::table.finish;
  finish(format, lanes, state, start, stop, count, out, stride);
}

}  // namespace

const AttentionKernels amx_attention{Arithmetic::bfloat_parts,
                                     project,
                                     Loops::table.quantize_query,
                                     pack_queries,
                                     Loops::table.transpose,
                                     attend,
                                     fold,
                                     finish};

}  // namespace trtcoder
