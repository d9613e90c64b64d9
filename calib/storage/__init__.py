"""How values are stored: schemes, blocks, float8, and what storing cost."""
