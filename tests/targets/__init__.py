"""Readers of quantized checkpoints that are not ours, and the table of what they read."""
