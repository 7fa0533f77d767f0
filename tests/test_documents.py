"""Whatever the documents name is there: links, modules, tests, campaigns."""

import re
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tezio_signer
from tests.support.pages import CAMPAIGN, ROOT, anchors, documents, links, target

_NAMED_TESTS = re.compile(r"\]\((\S*tests/\S+\.py)\):?\s+((?:`test_\w+`(?:,?\s*))+)")
_MODULE = re.compile(r"`([\w/]+\.py)`")
_INSTALLED = Path(tezio_signer.__file__).parents[1]
_FRONTS = ("", "tezio_signer/", "tezio_signer/watermarks/sqlite/")


def _main_of(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    path = Path(spec.origin)
    return path if spec.submodule_search_locations is None else path.with_name("__main__.py")


class DocumentsTests(SynchronousTestCase):
    """What is in the documents."""

    def test_campaigns_exist(self) -> None:
        """The campaigns that the documents name are there, with the options that are given."""
        named = 0
        for text in documents().values():
            for module, options in CAMPAIGN.findall(text):
                named += 1
                source = _main_of(module).read_text()
                for option in re.findall(r"--[\w-]+", options.partition("`")[0]):
                    self.assertIn(f'"{option}"', source, module)
        self.assertGreater(named, 10)

    def test_links(self) -> None:
        """Each link within the checkout leads to a file that is there, and to a heading in it."""
        texts = documents()
        for document, text in texts.items():
            for link in links(text):
                path, _, anchor = link.partition("#")
                name = document
                if path:
                    led_to = target(document, path)
                    self.assertTrue(led_to.exists(), f"{document}: {link}")
                    name = str(led_to.relative_to(ROOT)) if led_to.is_relative_to(ROOT) else ""
                if anchor and name.endswith(".md"):
                    self.assertIn(anchor, anchors(texts[name]), f"{document}: {link}")

    def test_named_modules_exist(self) -> None:
        """A module that is named by its path, of the package or of the checkout, is there."""
        named = 0
        for document, text in documents().items():
            for path in _MODULE.findall(text):
                named += 1
                places = [target(document, f"{ROOT}/{front}{path}") for front in _FRONTS]
                places.append(_INSTALLED / path)  # where the plugin is beside Twisted's
                self.assertTrue(any(place.exists() for place in places), f"{document}: {path}")
        self.assertGreater(named, 10)

    def test_cited_documents_exist(self) -> None:
        """A document that a source cites is there."""
        cited = 0
        for source in Path(tezio_signer.__file__).parent.glob("**/*.py"):
            for path in re.findall(r"docs/[\w./-]+\.md", source.read_text("utf-8")):
                cited += 1
                self.assertTrue((ROOT / path).exists(), f"{source.name}: {path}")
        self.assertGreater(cited, 5)

    def test_named_tests_exist(self) -> None:
        """A test that is named behind a link to its file is in that file."""
        named = 0
        for document, text in documents().items():
            for path, names in _NAMED_TESTS.findall(text):
                source = target(document, path).read_text()
                for name in re.findall(r"test_\w+", names):
                    named += 1
                    self.assertIn(f"def {name}(", source, f"{document}: {path}")
        self.assertGreater(named, 10)
