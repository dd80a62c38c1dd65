"""A local page on which finished runs answer the same history side by side."""
