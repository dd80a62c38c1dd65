"""Losses over the scores of all items, for models that score the catalogue; pure functions, one file per method."""
