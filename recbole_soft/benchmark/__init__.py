"""Benchmark runs: a recipe of models, data sets and seeds becomes finished runs and one table."""
