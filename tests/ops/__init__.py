"""What an operator asks and does, and the maintenance that needs nobody."""
