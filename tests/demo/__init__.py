"""The server that the demo starts and ends."""
