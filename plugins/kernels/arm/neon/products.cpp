#include "kernels/products_loops.h"

#include "kernels/arm/neon/lanes.h"

namespace trtcoder {

const Products neon_products = ProductLoops<NeonLanes>::table;

}  // namespace trtcoder
