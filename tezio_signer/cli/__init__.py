"""The commands of `tezio-signer`."""
