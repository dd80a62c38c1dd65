"""Many tiny jobs in one process: nothing may be left behind by any of them (docs/soak.md)."""
