#include "kernels/products.h"

namespace trtcoder {

const Products& products(Isa isa) {
#if defined(__x86_64__)
  static constexpr PerIsa<Products> tables{&portable_products, &avx2_products, &avx512_products,
                                           &amx_products, nullptr};
#elif defined(__aarch64__)
  static constexpr PerIsa<Products> tables{&portable_products, nullptr, nullptr, nullptr,
                                           &neon_products};
#else
  static constexpr PerIsa<Products> tables{&portable_products, nullptr, nullptr, nullptr,
                                           nullptr};
#endif
  return tables[isa];
}

}  // namespace trtcoder
