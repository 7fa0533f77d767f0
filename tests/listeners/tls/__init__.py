"""Tests of TLS: certificates, handshakes, and what is logged of them."""
