"""The commands. Nobody imports this."""
