"""onnx's own backend tests, each through -O3: the results must compute what the tests expect."""
