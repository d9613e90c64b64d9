"""Checkpoints of random weights, and where what is downloaded is kept, for tests and benchmarks."""
