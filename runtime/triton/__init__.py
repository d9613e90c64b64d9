"""An engine inside NVIDIA's Triton Inference Server, by its Python backend."""
