"""The examples: applications that sign people up, and what draws and alerts on metrics."""
