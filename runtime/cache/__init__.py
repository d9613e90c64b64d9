"""Which cache rows a sequence owns."""
