"""YAML files that are no settings, or hold more than settings."""

from __future__ import annotations

from tests.bad_inputs.case import Case

FILE = "bad.yaml"


def settings_file(name: str, content: str | bytes, cause: str, place: str, remedy: str) -> Case:
    """A case whose settings come from a file of this content."""
    given_by_the_file = dict.fromkeys(("epochs", "num_beams", "topk"))
    return Case(name, {**given_by_the_file, "config_files": FILE}, files={FILE: content}, cause=cause,
                place=f"{FILE}{place}", remedy=remedy)


BOMB = "\n".join(["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])

CASES = (
    Case("a file that is not there", {"config_files": "none.yaml"}, cause="settings file not found", place="none.yaml",
         remedy="check the spelling"),
    Case("a folder for a file", {"config_files": "data"}, cause="cannot be read: Is a directory", place="data",
         remedy="give a file that you may read"),
    settings_file("a wrong type", "seed: 1\nepochs: [1, 2]\n", "must be an integer from 1 up", ", line 2",
                  "epochs out"),
    settings_file("text for a number", "learning_rate: fast\n", "must be a number above 0", ", line 1",
                  "learning_rate out"),
    settings_file("out of range", "num_beams: 0\n", "num_beams = 0: must be an integer from 1", ", line 1",
                  "num_beams out"),
    settings_file("an unknown key", "epochz: 3\n", "epochz = 3: there is no such setting", ", line 1", "epochs?"),
    settings_file("a duplicate key", "epochs: 1\nseed: 1\nepochs: 2\n", "the key 'epochs' is written twice", ", line 3",
                  "plain `key: value` lines"),
    settings_file("a duplicate key inside a value", "eval_args:\n  order: TO\n  order: RO\n",
                  "'order' is written twice",
                  ", line 3", "plain `key: value` lines"),
    settings_file("code in a number", "epochs: __import__('os').remove('raw/items.jsonl')\n", "must be an integer",
                  ", line 1", "epochs out"),
    settings_file("an object of Python", "epochs: !!python/object/apply:os.remove ['raw/items.jsonl']\n",
                  "python/object",
                  ", line 1", "plain `key: value` lines"),
    settings_file("a name of Python", "epochs: !!python/name:os.system\n", "python/name", ", line 1", "plain"),
    settings_file("a new object of Python", "epochs: !!python/object/new:os.system ['true']\n", "python/object/new",
                  ", line 1", "plain"),
    settings_file("a tuple of Python", "topk: !!python/tuple [1, 5]\n", "python/tuple", ", line 1", "plain"),
    settings_file("an anchor", "epochs: &n 1\nseed: *n\n", "anchors", ", line 1", "plain `key: value` lines"),
    settings_file("an anchor bomb", BOMB, "anchors", ", line 1", "plain `key: value` lines"),
    settings_file("brackets 10,000 deep", "topk: " + "[" * 10_000, "RecursionError", "", "plain `key: value` lines"),
    settings_file("a merge key", "<<: {epochs: 1}\n", "<< = ", ", line 1", "--help"),
    settings_file("tabs for spaces", "eval_args:\n\torder: TO\n", "cannot start any token", ", line 2", "plain"),
    settings_file("a list", "- epochs\n- 1\n", "must hold `key: value` lines", ", line 1", "`epochs: 5`"),
    settings_file("two documents", "epochs: 1\n---\nseed: 1\n", "another document", ", line 2", "plain"),
    settings_file("a key that is a number", "5: 1\n", "the key 5 is not a word", "", "`epochs`"),
    settings_file("Latin-1", "title_field: T\xeftel\n".encode("latin-1"), "not UTF-8", "", "save it as UTF-8"),
    settings_file("a null byte", b"epochs: \x001\n", "not allowed", "", "plain"),
    settings_file("a null byte in quotes", 'run_name: "a\\0b"\n', "must be text", ", line 1", "run_name out"),
    settings_file("an open quote", "title_field: 'name\n", "unexpected end", ", line 2", "odd text in quotes"),
    settings_file("a colon in a text", "title_field: name: of item\n", "mapping values are not allowed", ", line 1",
                  "odd text in quotes"),
    Case("an empty file", {"config_files": FILE}, files={FILE: ""}, ends=0, says="HR@5"),
    Case("a file with a byte-order mark", {"config_files": FILE}, files={FILE: b"\xef\xbb\xbfseed: 42\r\n"}, ends=0,
         says="HR@5"),
    Case("Python's words in quotes are a title", {"config_files": FILE, "USER_ID_FIELD": "__import__('os')"},
         files={FILE: "title_field: 'eval(1)'\n"}, cause="column '__import__('os')' is missing",
         place="data/mine/mine.inter", remedy="--USER_ID_FIELD=NAME"),
)
