"""From checkpoint rows to stored bytes; knows no ONNX."""
