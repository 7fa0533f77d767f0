"""How the daemon is started: by `tezio-signer run`, or by twistd."""
