"""Blocks of latent cache rows: who holds them, and which prefixes of tokens they stand for."""
