"""The operator's window: what it shows, whom it keeps out, and what a browser makes of it."""
