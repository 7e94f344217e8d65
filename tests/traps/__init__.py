"""Small models that optimizers get wrong: one file for each kind, in ONNX text, and what they are checked by.

    # trap: what is dangerous
    # opset: 18                    by default
    # domain: local 1              imported besides
    # feed: float[2] x = {1, 2}    an input, instead of random ones
    # keeps: RandomNormal 2        so many nodes of this operator are left
    # finite: no                   -O3, which answers for finite numbers only, is not asked
    # zeros: signed                only -O1 is asked: x + 0 is x but for the sign of a zero
    g (float[2] x) => (float[2] y) { y = Neg (x) }
"""
