"""What is said of a configuration before the daemon listens."""
