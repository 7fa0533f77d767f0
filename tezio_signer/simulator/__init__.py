"""A Tezio HSM in software."""
