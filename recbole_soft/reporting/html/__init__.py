"""The report: one self-contained HTML page, made from records of runs and from nothing else."""
