#include "kernels/products_loops.h"

#include "kernels/x86/avx2/lanes.h"

namespace trtcoder {

const Products avx2_products = ProductLoops<Avx2Lanes>::table;

}  // namespace trtcoder
