"""The rules, each by itself."""
