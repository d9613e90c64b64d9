"""Calibration data, quantizers, and what quantization cost."""
