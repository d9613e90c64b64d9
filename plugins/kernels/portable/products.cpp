#include "kernels/products_loops.h"

#include "kernels/portable/lanes.h"

namespace trtcoder {

const Products portable_products = ProductLoops<PortableLanes>::table;

}  // namespace trtcoder
