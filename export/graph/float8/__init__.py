"""Float8 weights, activations and caches as an emulation in the graph."""
