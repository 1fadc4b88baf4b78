import pytest

from fprune.checkpoint.entry import Entry
from fprune.checkpoint.text import loads
from fprune.config import Config
from fprune.errors import CheckpointError

RECORD = b"""{"i": 3, "yes": true, "name": "agp", "none": null, "half": 0.5, "nan": "nan", "big": 1%s,
              "list": [1, "x"], "deep": {"a.b": {"c": [[0]]}}}""" % (b"0" * 4000)


@pytest.fixture
def entry():
    return loads(RECORD, "run.json")


def test_values_come_out_as_what_they_are(entry):
    assert entry["i"].integer(0, 3) == 3
    assert entry["yes"].flag() is True
    assert entry["name"].text("agp", "linear") == "agp"
    assert entry["half"].number() == 0.5
    assert str(entry["nan"].number()) == "nan"
    assert entry["list"].each(lambda item: item.value) == (1, "x")
    assert entry["deep"].mapped(lambda item: item["c"].each(lambda row: row.each(Entry.integer))) == {"a.b": ((0,),)}
    assert [key for key, _ in entry.items()] == ["i", "yes", "name", "none", "half", "nan", "big", "list", "deep"]
    assert entry["deep"].only("a.b", "x") == entry["deep"]


def test_absent_and_null_are_none_only_where_that_is_said(entry):
    assert entry.maybe("none", Entry.integer) is None
    assert entry.maybe("absent", Entry.integer) is None
    assert entry.maybe("i", Entry.integer) == 3
    with pytest.raises(CheckpointError, match=r"run\.json, i: expected a text, got 3"):
        entry.maybe("i", Entry.text)
    with pytest.raises(CheckpointError, match=r"run\.json, none: expected an int, got null"):
        entry["none"].integer()


WRONG = {
    "run.json: there is no 'nmae'. Did you mean 'name'?": lambda e: e["nmae"],
    "run.json: there is no 'zzz'": lambda e: e["zzz"],
    "run.json, list: expected an object, got a list of 2": lambda e: e["list"]["i"],
    "run.json, i: expected an object, got 3": lambda e: e["i"].maybe("x", Entry.integer),
    "run.json, name: expected an object, got 'agp'": lambda e: list(e["name"].items()),
    "run.json, half: expected an object, got 0.5": lambda e: e["half"].mapped(Entry.integer),
    "run.json, deep: expected a list, got an object of 1": lambda e: e["deep"].each(Entry.integer),
    "run.json, list[1]: expected an int, got 'x'": lambda e: e["list"].each(Entry.integer),
    "run.json, deep.a.b.c[0][0]: expected a text, got 0": lambda e: e["deep"]["a.b"]["c"].each(
        lambda row: row.each(Entry.text)
    ),
    "run.json, yes: expected an int, got True": lambda e: e["yes"].integer(),
    "run.json, yes: expected a number, got True": lambda e: e["yes"].number(),
    "run.json, i: expected true or false, got 3": lambda e: e["i"].flag(),
    "run.json, half: expected an int, got 0.5": lambda e: e["half"].integer(),
    "run.json, name: expected a number, got 'agp'": lambda e: e["name"].number(),
    "run.json, i: expected a text, got 3": lambda e: e["i"].text("agp"),
    "run.json, name: expected one of 'a', 'b', got 'agp'": lambda e: e["name"].text("a", "b"),
    "run.json, i: expected an int of at least 4, got 3": lambda e: e["i"].integer(low=4),
    "run.json, i: expected an int of at most 2, got 3": lambda e: e["i"].integer(high=2),
    "run.json, i: expected an int of 4 to 5, got 3": lambda e: e["i"].integer(4, 5),
    "run.json, big: expected a text, got an int of 13288 bits": lambda e: e["big"].text(),
    "run.json, deep: unknown 'a.b', expected 'x', 'y'": lambda e: e["deep"].only("x", "y"),
    "run.json, i: too old": lambda e: e["i"].refuse("too old"),
}


@pytest.mark.parametrize("message", WRONG)
def test_whatever_is_wrong_is_named_with_its_place(entry, message):
    with pytest.raises(CheckpointError) as caught:
        WRONG[message](entry)
    assert caught.value.message == message
    assert caught.value.hint == "the file is damaged, or was not written by fprune"


def test_a_record_that_refuses_a_value_is_an_error_of_the_file(entry):
    with pytest.raises(CheckpointError) as caught:
        entry["half"].made(Config, 1.5)
    assert caught.value.message.startswith("run.json, half: ")
    assert "1.5" in caught.value.message

    def fails():
        raise KeyError("x")

    with pytest.raises(CheckpointError, match=r"run\.json: KeyError: 'x'"):
        entry.made(fails)
    with pytest.raises(CheckpointError, match=r"^run\.json, i: no\n"):
        entry["half"].made(entry["i"].refuse, "no")
    assert entry["half"].made(Config, 0.5) == Config(0.5)


def test_long_values_and_paths_do_not_flood_the_message():
    with pytest.raises(CheckpointError) as caught:
        Entry({"k" * 9000: "v" * 9000}, "a.json")["k" * 9000].integer()
    assert len(caught.value.message) < 300
