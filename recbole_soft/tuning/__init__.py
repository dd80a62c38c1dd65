"""Searches for settings on validation windows, with Optuna: `recbole-soft tune`."""
