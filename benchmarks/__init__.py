"""Speed of each part against its peers: one command a file, `python -m benchmarks.NAME --help`."""
