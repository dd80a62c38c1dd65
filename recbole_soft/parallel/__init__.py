"""One run in several processes: which of them this is, what only the first does, how work is shared and gathered.

In a run of one process everything here does nothing and costs nothing.
"""
