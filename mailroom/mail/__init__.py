"""The seam to a mail provider, and the transports that need none. For the worker, the commands and `ses`."""
