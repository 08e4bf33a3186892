"""Text as a tree of nodes from a closed list, which pages draw without HTML strings."""
