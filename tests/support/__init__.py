"""What several tests and campaigns use."""
