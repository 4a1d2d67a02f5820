"""The formulas once more, in NumPy and float64, one loop per index: the oracle that jaxcnn is checked against.

Files and functions are called as in jaxcnn. `python -m reference` runs every oracle against every operation.
"""
