"""DeepSeek-V2: its configuration, its tensors, its rotary scaling."""
