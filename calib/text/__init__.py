"""Text that calibrates and text that judges."""
