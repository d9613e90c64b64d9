#include "kernels/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_rows.h"
#include "kernels/portable/lanes.h"

namespace trtcoder {
namespace {

bool all_finite(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float x) { return std::isfinite(x); });
}

}  // namespace

int64_t scratch_bytes(const RowFormat& format) {
  return AttentionTile(format, nullptr).bytes;
}

int drop_faults(const RowFormat& format, RangeRows& rows) {
  std::vector<float> values(format.width);
  int first = kRangeRows, kept = 0;
  for (int r = 0; r < rows.count; ++r) {
    bool finite;
    if (format.arithmetic == Arithmetic::int16) {
      finite = all_finite(rows.scales[r], format.groups());
    } else {
      convert<PortableLanes>(format, rows.entries[r], rows.scales[r], 0, format.width,
                             values.data());
      finite = all_finite(values.data(), format.width);
    }
    if (!finite) {
      first = std::min(first, rows.offset[r]);
      continue;
    }
    rows.offset[kept] = rows.offset[r];
    rows.entries[kept] = rows.entries[r];
    rows.scales[kept++] = rows.scales[r];
  }
  rows.count = kept;
  return first;
}

RowsAhead::RowsAhead(const RowFormat& format, const RangeRows& rows)
    : rows_(rows), row_bytes_(format.row_bytes()),
      scale_bytes_(rows.count && rows.scales[0] ? format.groups() * 4 : 0) {}

void RowsAhead::lines(int count) {
  for (; count > 0 && row_ < rows_.count; --count) {
    const auto* row = static_cast<const std::byte*>(rows_.entries[row_]);
    __builtin_prefetch(row + at_, 0, 2);
    at_ += 64;
    if (at_ < row_bytes_) continue;
    for (int64_t i = 0; i < scale_bytes_; i += 64)
      __builtin_prefetch(reinterpret_cast<const std::byte*>(rows_.scales[row_]) + i, 0, 2);
    ++row_, at_ = 0;
  }
}

void RowsAhead::rows(int count) { lines(count * int((row_bytes_ + 63) / 64)); }

const AttentionKernels& attention_kernels(Isa isa) {
#if defined(__x86_64__)
  static constexpr PerIsa<AttentionKernels> tables{.portable = &portable_attention,
                                                   .avx2 = &avx2_attention,
                                                   .avxvnni = &avx2_attention,
                                                   .avx512 = &avx512_attention,
                                                   .amx = &amx_attention};
#elif defined(__aarch64__)
  static constexpr PerIsa<AttentionKernels> tables{.portable = &portable_attention,
                                                   .neon = &neon_attention};
#else
  static constexpr PerIsa<AttentionKernels> tables{.portable = &portable_attention};
#endif
  return tables[isa];
}

}  // namespace trtcoder
