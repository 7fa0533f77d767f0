"""The machine: its users' names and its file systems."""
