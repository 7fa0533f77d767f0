"""The Tezio HSM: its packets, and a device in software."""
