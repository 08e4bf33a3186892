"""Running the service: health, metrics, logs, backups, checks."""
