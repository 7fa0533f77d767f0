"""The audit log: a line for each decision, each bound to the one before by a hash."""
