"""Speed of the package against the plain formulation of the published pipeline: `python -m benchmarks --help`.

In one process and on one small model, every stage runs our way and the plain way in turn. What comes out are
ratios, with their spread, whether the results are equal, and the memory both took.
"""
