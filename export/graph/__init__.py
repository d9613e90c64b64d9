"""The ONNX graph of an architecture."""
