"""Before anything is spent: memory, FLOPs and time of a run, and what this machine has."""
