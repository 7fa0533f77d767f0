"""Reading YAML field by field, and saying where it is wrong."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tezio_signer.config.fields import ConfigError, Field, parse, read


def value_of(document: str) -> Field:
    """What is written under `a` in a document."""
    return parse(document, "f.yaml").entries()["a"]


class DocumentTests(SynchronousTestCase):
    """What is no YAML, or none that could be a configuration."""

    def refused(self, text: str) -> str:
        """What is said of a text that must not parse."""
        return str(self.assertRaises(ConfigError, parse, text, "f.yaml"))

    def test_no_yaml(self) -> None:
        """A text that is no YAML is refused with the line at which YAML breaks off."""
        for text, line in [
            ("a: b: c", 1),
            ("a: 1\n\tb: 2", 2),
            ("a: 'open\n\n", 3),
            ("a: [1,\nb: 2\nc: 3", 3),
            ("a: 1\n  b: 2", 2),
            ("a: *missing", 1),
            ("a: 1\n---\na: 2", 2),
            ('a: "\\q"', 1),
            ("%YAML 9.9\n---\na: 1", 1),
        ]:
            message = self.refused(text)
            self.assertTrue(message.startswith(f"f.yaml:{line}: not YAML: "), message)

    def test_forbidden_characters(self) -> None:
        """Control characters, lone surrogates and escapes beyond Unicode are refused."""
        for text in ("a: \0", "a: \x1b[0m", "\ud800: 1", 'a: "\\U00110000"', 'a: "\\UFFFFFFFF"'):
            self.assertIn("f.yaml: not YAML: ", self.refused(text))

    def test_too_deep(self) -> None:
        """A document nested beyond all reason is refused in one line."""
        for text in ("[" * 3000 + "]" * 3000, "{a: " * 3000 + "}" * 3000):
            message = self.refused(text)
            self.assertIn("f.yaml: not YAML: ", message)
            self.assertNotIn("\n", message)

    def test_empty(self) -> None:
        """A document without content is refused as empty."""
        for text in ("", "\n\n", "# only a comment\n"):
            self.assertEqual(
                self.refused(text), "f.yaml:1: the file is empty; begin with the sample config.yaml"
            )


class FileTests(SynchronousTestCase):
    """What can be wrong with the file itself."""

    def refused(self, path: Path) -> str:
        """What is said of a file that must not be read."""
        return str(self.assertRaises(ConfigError, read, path))

    def file(self, content: bytes) -> Path:
        """A file with this content."""
        path = Path(self.mktemp())
        path.write_bytes(content)
        return path

    def test_text(self) -> None:
        """Errors in a file carry its path as it was given."""
        path = self.file("# tz1…\na: é\n".encode())
        self.assertEqual(read(path).entries()["a"].text(), "é")
        self.assertEqual(str(read(path).entries()["a"].error("wrong")), f"{path}:2: a: wrong")

    def test_byte_order_mark(self) -> None:
        """The mark that editors on Windows put at the beginning belongs to no key."""
        self.assertEqual(list(read(self.file(b"\xef\xbb\xbfa: 1\r\n")).entries()), ["a"])

    def test_binary(self) -> None:
        """A file that is no UTF-8 text is refused."""
        for content in (b"\xff\xfea\0", b"\x7fELF\x02\x01\x80", b"SQLite format 3\0\xc3"):
            path = self.file(content)
            self.assertEqual(self.refused(path), f"{path}: is not UTF-8 text")

    def test_unreadable(self) -> None:
        """A file that is missing or none is refused with the reason of the system."""
        missing = Path(self.mktemp())
        self.assertEqual(
            self.refused(missing), f"{missing}: cannot be read: No such file or directory"
        )
        directory = Path(self.mktemp())
        directory.mkdir()
        self.assertEqual(self.refused(directory), f"{directory}: cannot be read: Is a directory")


class FieldTests(SynchronousTestCase):
    """Values, and where they harness."""

    def refused(self, read_value: Callable[..., object], *arguments: object) -> str:
        """What is said of a value that is not what is wanted."""
        return str(self.assertRaises(ConfigError, read_value, *arguments))

    def test_scalars(self) -> None:
        """Values are those of YAML 1.1, in which `yes` is true and 0x11 a number."""
        for text, expected in [
            ("True", True),
            ("yes", True),
            ("off", False),
            ("17", 17),
            ("0x11", 17),
            ("-1", -1),
            ("'17'", "17"),
            ("tz1", "tz1"),
            ("''", ""),
            ("1.5", 1.5),
            ("~", None),
            ("", None),
        ]:
            value = value_of(f"a: {text}").value()
            self.assertEqual((type(value), value), (type(expected), expected), text)

    def test_types(self) -> None:
        """A value of another type is refused with what is expected and what is written there."""
        for text, read_value, words in [
            ("1", Field.boolean, "True or False is expected here, not 1"),
            ("'True'", Field.boolean, "True or False is expected here, not 'True'"),
            ("", Field.boolean, "True or False is expected here, not nothing"),
            ("~", Field.boolean, "True or False is expected here, not ~"),
            ("True", Field.integer, "a number is expected here, not True"),
            ("1.0", Field.integer, "a number is expected here, not 1.0"),
            ("'1'", Field.integer, "a number is expected here, not '1'"),
            ("1", Field.text, "a text in quotes is expected here, not 1"),
            ("2026-11-23", Field.text, "a text in quotes is expected here, not 2026-11-23"),
            ("yes", Field.integer, "a number is expected here, not yes"),
            ("0x99", Field.text, "a text in quotes is expected here, not 0x99"),
            ("'0x99'", Field.integer, "a number is expected here, not '0x99'"),
            ('"5"', Field.integer, 'a number is expected here, not "5"'),
            ("[a]", Field.text, "a single value is expected here"),
            ("{a: 1}", Field.value, "a single value is expected here"),
            ("a", Field.items, "a list is expected here"),
            ("{a: 1}", Field.items, "a list is expected here"),
            ("[a]", Field.entries, "a mapping (key: value) is expected here"),
            ("", Field.entries, "a mapping (key: value) is expected here"),
        ]:
            message = self.refused(read_value, value_of(f"a: {text}"))
            self.assertTrue(message.startswith(f"f.yaml:1: a: {words}"), message)

    def test_notations(self) -> None:
        """A number that people read otherwise than YAML 1.1 is refused, in both readings."""
        for text in ("0", "17", "-1", "+5", "0x11", "0xFf", "-0x5"):
            self.assertEqual(value_of(f"a: {text}").integer(), int(text, 0), text)
        for text in ("0", "60", "1.5", "0.25"):
            self.assertEqual(value_of(f"a: {text}").number(), float(text), text)
        for text, reading in [
            ("010", "8"),
            ("00", "0"),
            ("-010", "-8"),
            ("0_", "0"),
            ("1_000", "1000"),
            ("0x1_0", "16"),
            ("0b11", "3"),
            ("50:01:00", "180060"),
            ("1:30.5", "90.5"),
            (".5", "0.5"),
            ("1.", "1.0"),
            ("1.5e+3", "1500.0"),
            ("01.5", "1.5"),
            (".inf", "inf"),
            ("!!int '010'", "8"),
        ]:
            field = value_of(f"a: {text}")
            for read_number in (field.integer, field.number):
                message = self.refused(read_number)
                self.assertIn(f"{field.written} is {reading} for YAML", message)
        self.assertEqual(value_of("a: '010'").text(), "010")

    def test_near_names(self) -> None:
        """A name is proposed for one that is like it or its beginning, and else none."""
        known = ("hsm_wait_seconds", "allowed_ips", "listen", "octez_socket", "log")
        for name, near in [
            ("allowed_ip", "allowed_ips"),
            ("alowed-ips", "allowed_ips"),
            ("octez", "octez_socket"),
            ("lisen", "listen"),
        ]:
            message = self.refused(parse(f"{name}: 1", "f.yaml").mapping, known)
            self.assertIn(f"unknown key; did you mean {near}? Known: hsm", message)
        for name in ("audit_log", "x", "metrics", "o", "?"):
            message = self.refused(parse(f"{name}: 1", "f.yaml").mapping, known)
            self.assertIn(f"{name}: unknown key; Known: hsm_wait_seconds, allowed_ips", message)

    def test_long_values_are_cut(self) -> None:
        """An error does not print pages of a wrong value."""
        self.assertLess(len(self.refused(value_of(f"a: {'x' * 9999}").boolean)), 200)

    def test_one_line_of_a_terminal(self) -> None:
        """What is quoted from the file breaks no line, moves no cursor, and is not endless."""
        for document, shown in (
            ('{"a\\e[2J\\nb": 1}', "a\\x1b[2J\\nb: unknown key"),
            ('{"\\ud800": 1}', "\\ud800: unknown key"),
            ("{a\ufeffb: 1}", "a\\ufeffb: unknown key"),
            ("? " + "a" * 3000, "aaa … aaa"),
        ):
            with self.assertRaises(ConfigError) as raised:
                parse(document, "f.yaml").mapping(["port"])
            message = str(raised.exception)
            self.assertIn(shown, message)
            self.assertTrue(message.endswith("unknown key; Known: port"), message)
            self.assertLess(len(message), 1000)
            self.assertTrue(message.isprintable(), ascii(message))

    def test_long_aliases(self) -> None:
        """What YAML itself says of a long name is cut too."""
        message = str(self.assertRaises(ConfigError, parse, "a: *" + "b" * 3000, "f.yaml"))
        self.assertIn("undefined alias", message)
        self.assertLess(len(message), 1000)

    def test_unreadable_values(self) -> None:
        """What YAML itself cannot make a value of is refused where it is written."""
        for text in (
            "2026-99-99",
            "=",
            "<<",
            "0x_",
            "0b_",
            "9999-12-31T23:59:59+99:99",
            "!!int ''",
            "!!int x",
            "!!bool perhaps",
            "!!float ''",
            "!!timestamp x",
            "!python/object:os.system x",
            "!unknown x",
            "9" * 5000,
            "0x" + "f" * 5000,
            "1:" * 400 + "1.5",
        ):
            message = self.refused(value_of(f"a: {text}").integer)
            self.assertTrue(message.startswith("f.yaml:1: a: "), message)
            self.assertNotIn("\n", message)

    def test_paths_and_lines(self) -> None:
        """An error names the line of the key or list item, and the way to it."""
        top = parse("a:\n  b:\n    -\n      c: 1\n    - 2\n'd': >\n  text\n", "f.yaml").entries()
        b = top["a"].entries()["b"]
        for field, where in [
            (top["a"], "1: a"),
            (b, "2: a.b"),
            (b.items()[0].entries()["c"], "4: a.b[0].c"),
            (b.items()[1], "5: a.b[1]"),
            (top["d"], "6: d"),
        ]:
            self.assertEqual(str(field.error("wrong")), f"f.yaml:{where}: wrong")
        self.assertEqual(str(parse("\na: 1", "f.yaml").error("wrong")), "f.yaml:2: wrong")

    def test_keys(self) -> None:
        """Keys are given as they are written, whatever YAML takes them for."""
        self.assertEqual(
            list(parse("{0x11: 1, '0x12': 2, on: 3, ~: 4, [b]: 5}", "").entries()),
            ["0x11", "0x12", "on", "~", "?"],
        )

    def test_key_twice(self) -> None:
        """A key that is written twice in a mapping is refused at the second place."""
        for text, where in [
            ("a: 1\nb: 2\na: 3", "3: a"),
            ("b: 1\n'b': 2", "2: b"),
            ("[c]: 1\n{d: 2}: 2", "2: ?"),
        ]:
            message = self.refused(parse(text, "f.yaml").entries)
            self.assertEqual(
                message, f"f.yaml:{where}: this key is here twice; leave one of them out"
            )
        nested = value_of("a:\n  b: 1\n  b: 1")
        self.assertEqual(
            self.refused(nested.entries),
            "f.yaml:3: a.b: this key is here twice; leave one of them out",
        )

    def test_mapping(self) -> None:
        """Only known keys are taken; an unknown one is answered with the nearest and all."""
        field = parse("level: 1\nround: 2", "f.yaml")
        self.assertEqual(list(field.mapping(("level", "round"), ("level",))), ["level", "round"])
        self.assertEqual(
            self.refused(field.mapping, ("level", "rounds")),
            "f.yaml:2: round: unknown key; did you mean rounds? Known: level, rounds",
        )
        self.assertEqual(
            self.refused(field.mapping, ("level", "round", "key"), ("level", "key")),
            "f.yaml:1: key is missing",
        )

    def test_unknown_key_above_its_value(self) -> None:
        """An unknown key is reported in its own line, also when its value begins below it."""
        field = parse("a: 1\nsekurity:\n    auth_check: False\n", "f.yaml")
        message = self.refused(field.mapping, ("a", "security"))
        self.assertTrue(
            message.startswith("f.yaml:2: sekurity: unknown key; did you mean security?"), message
        )

    def test_anchors(self) -> None:
        """A value may be referred to again, even one that contains itself."""
        top = parse("a: &x [1, 2]\nb: *x\nc: &y [*y]", "f.yaml").entries()
        self.assertEqual([item.integer() for item in top["b"].items()], [1, 2])
        self.assertIn("c[0]: a single value", self.refused(top["c"].items()[0].value))

    def test_merging(self) -> None:
        """The merge key of YAML is an unknown key like any other."""
        field = parse("a: &x {b: 1}\n<<: *x", "f.yaml")
        self.assertIn("f.yaml:2: <<: unknown key", self.refused(field.mapping, ("a",)))


class ArbitraryTextTests(SynchronousTestCase):
    """No text whatsoever is a fault."""

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.text(st.sampled_from("a1:-?[]{},&*!|>'\"%@#=<~ \n\t\\_x.\0\ufeffé"), max_size=20))
    def test_only_config_errors(self, text: str) -> None:
        """Parsing a text, and reading all that is in it, raises nothing but ConfigError."""
        try:
            fields = [parse(text, "f.yaml")]
            for field in fields[:]:
                fields += field.entries().values()
        except ConfigError:
            return
        for field in fields:
            for read_value in (Field.boolean, Field.integer, Field.text, Field.items):
                try:
                    read_value(field)
                except ConfigError as error:
                    self.assertTrue(str(error).startswith("f.yaml:"), error)
