"""Tools for models whose chat format has none: what they are, how a prompt lists them, calls."""
