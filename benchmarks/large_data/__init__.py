"""Time and memory of data of Kindle's size and beyond: `python -m benchmarks.large_data --help`.

Data is generated (`generate`), every stage runs in a process of its own (`stages`), and what came out becomes
docs/large-data.md (`report`). Size 1 is Amazon's Kindle store of 2023.
"""
