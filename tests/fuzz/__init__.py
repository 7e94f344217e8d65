"""A differential fuzzer: random models, optimized at every level, run before and after in two executors.

    python -m tests.fuzz --graphs 1000 --seed 7 --level O1,O2,O3 --target onnx,ort-cpu

`generate` makes a model from a seed, `examine` says what is wrong with what the optimizer makes of it, `blame` finds
the rewrite, makes the model small and writes a golden test.
"""
