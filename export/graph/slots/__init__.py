"""The graph over a fixed batch of slots, which compilers make plans of."""
