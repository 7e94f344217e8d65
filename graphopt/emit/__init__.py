"""Writing the result: ONNX files and engines."""
