"""How the campaign on a bare Debian reads README; the campaign itself wants root and a mirror."""

from twisted.trial.unittest import SynchronousTestCase

from tests.campaigns.baredebian import CHECKOUT, Unlike, steps
from tests.support.pages import Step

TEXT = """\
## Try it

```console
# apt-get install make
```

```console
$ make run
```

```yaml
$ no command
```

```console
$ python - <<END
print("a")
END
a
$ true
```

### Further

```console
$ false
```

## Install
"""


class StepsTests(SynchronousTestCase):
    """Commands, and what they are to write."""

    def test_of_a_section(self) -> None:
        """A here-document belongs to its command; other headings and blocks are left out."""
        self.assertEqual(
            steps(TEXT, "Try it"),
            [
                Step("apt-get install make", "", as_root=True),
                Step("make run", ""),
                Step('python - <<END\nprint("a")\nEND', "a\n"),
                Step("true", ""),
            ],
        )
        self.assertRaises(Unlike, steps, TEXT, "Try")

    def test_of_readme(self) -> None:
        """README says what to install and run, shows a signature, and verifies it."""
        found = steps((CHECKOUT / "README.md").read_text("utf-8"), "Try it")
        self.assertEqual(found[0].command, "apt-get install git make curl python3-venv")
        self.assertEqual(found[1].command, "make run")
        self.assertIn('{"signature":"edsig', found[-2].output)
        self.assertEqual(found[-1].output, "True\n")
