"""The loop on a real model with real people's comparisons: `wuya assistant`."""
