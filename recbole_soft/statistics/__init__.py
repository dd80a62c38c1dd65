"""Statistics over test windows: arrays in, numbers out. Knows no files, no records and no models."""
