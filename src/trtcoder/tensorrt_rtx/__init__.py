"""TensorRT-RTX' libraries: what loads them, and what the GPUs that they compile for can do."""
