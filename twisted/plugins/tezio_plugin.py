"""Makes `tezio-signer` known to twistd; the tap is only imported when it is run."""

from twisted.application.service import ServiceMaker

tezio_signer = ServiceMaker(
    "Tezio Signer",
    "tezio_signer.tap",
    "Answers Octez signing requests with signatures of a Tezio HSM.",
    "tezio-signer",
)
