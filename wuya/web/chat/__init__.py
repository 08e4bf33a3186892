"""Chat: conversations as trees, generations as jobs, Markdown as node trees, search, shares, import and export."""
