"""TEXT -> COMPARISONS: what people think of the answers, kept, exported and measured. Nothing here imports torch."""
