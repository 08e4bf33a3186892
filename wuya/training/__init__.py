"""The workshop: optimizers, schedules, processes, and the run folder that makes training resumable."""
