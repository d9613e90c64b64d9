"""The compiled kernels: where they are, and what this machine runs of them."""
