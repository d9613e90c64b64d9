"""How precise each class of tensors must be, and what that takes."""
