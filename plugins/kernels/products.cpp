#include "kernels/products.h"

namespace trtcoder {

const Products& products(Isa isa) {
#if defined(__x86_64__)
  static constexpr PerIsa<Products> tables{.portable = &portable_products,
                                           .avx2 = &avx2_products,
                                           .avxvnni = &avxvnni_products,
                                           .avx512 = &avx512_products,
                                           .amx = &amx_products};
#elif defined(__aarch64__)
  static constexpr PerIsa<Products> tables{.portable = &portable_products, .neon = &neon_products};
#else
  static constexpr PerIsa<Products> tables{.portable = &portable_products};
#endif
  return tables[isa];
}

}  // namespace trtcoder
