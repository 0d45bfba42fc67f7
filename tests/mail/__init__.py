"""What is handed to a provider, and the transports that need none."""
