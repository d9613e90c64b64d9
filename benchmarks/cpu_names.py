"""What `benchmarks.cpu` calls our programs."""

KERNELS, INT8, STOCK = "trtcoder", "trtcoder, int8 cache", "trtcoder, ONNX Runtime's operators"
