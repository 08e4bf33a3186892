"""Chat: conversations as trees, generations as jobs, search, shares, import and export."""
