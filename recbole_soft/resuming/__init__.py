"""What outlives a process that is killed at any moment: locks, checkpoints, parts of long results.

Nothing here knows what is saved; `docs/resuming.md` says who saves what. `locks.py` imports no torch.
"""
