#include "kernels/products_loops.h"

#include "kernels/x86/avx512/lanes.h"

namespace trtcoder {

const Products avx512_products = ProductLoops<Avx512Lanes>::table;

}  // namespace trtcoder
