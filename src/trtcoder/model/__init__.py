"""What a model is: its configuration, its tensors, its rotary frequencies."""
