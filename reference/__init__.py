"""The formulas once more, in NumPy and float64, one loop per index: the oracle that jaxcnn is checked against.

Files are called as in jaxcnn; the loops of `op` are `op_forward` and `op_backward`. `python -m reference` runs every
oracle against every operation.
"""
