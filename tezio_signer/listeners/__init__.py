"""Listening: endpoints, ports, TLS, limits, and who is connected."""
