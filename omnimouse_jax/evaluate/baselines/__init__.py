"""Baselines: what simpler predictors reach on the same windows, tiers and tasks as a model (docs/baselines.md).

`problem.py` says what a baseline is, `shown.py` what it may see, `registry.py` lists them, `score.py` scores them.
"""
