"""The commands, as a shell starts them or in this process."""
