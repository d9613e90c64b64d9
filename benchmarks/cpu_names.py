"""Names in the results of `benchmarks.cpu` and `benchmarks.cpu_profile`."""

KERNELS, INT8, STOCK = "trtcoder", "trtcoder, int8 cache", "trtcoder, ONNX Runtime's operators"
# Of a step's time, what no node takes.
REST = "between nodes"
