"""Quantized Hugging Face checkpoints, for servers that are not ours."""
