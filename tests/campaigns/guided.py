"""One target under atheris, for `tests.campaigns.fuzz`; its arguments are not for people."""

import os
import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["tezio_signer", "twisted.web.http", "klein"]):
    from tests.campaigns.fuzz import TARGETS, Examination, write_report


def main() -> None:
    """Fuzz until there were enough inputs; leave the report in the directory."""
    name, inputs, seed, place = sys.argv[1:]
    directory = Path(place)
    target = TARGETS[name][0](directory)
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    dictionary = directory / "tokens"
    dictionary.write_text(
        "".join(
            '"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in target.tokens
        )
    )
    examination = Examination(target, int(inputs))

    def try_input(data: bytes) -> None:
        examination.examine(data)
        if examination.done:
            write_report(examination.report, directory)
            sys.stderr.flush()
            os._exit(0)  # libFuzzer has no other end that it does not take for a crash

    def change(data: bytes, longest: int, seed: int) -> bytes:
        if seed % 2:
            changed: bytes = atheris.Mutate(data, longest)
            return changed
        return target.made(Random(seed), data)[:longest]

    options = [
        f"-seed={seed}",
        f"-max_len={target.longest}",
        f"-dict={dictionary}",
        "-rss_limit_mb=1024",
        "-timeout=30",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], try_input, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
