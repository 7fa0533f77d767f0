"""TLS of listeners: certificates, handshakes, and what is logged of them."""
