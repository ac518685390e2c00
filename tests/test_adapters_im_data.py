"""Instruction tuning from data to adapter: files and data sets, cutting, what is shown, what is recorded, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from adapters import train
from adapters.api import split_settings
from adapters.data import load_data
from adapters.describe import describe_model, load_fast_tokenizer
from adapters.inspect import inspect_data
from adapters.prepare import PreparedData, prepare
from adapters.settings import TrainSettings
from harness.models.registry import load_model, parse_model
from stepgame.cli import main
from stepgame.errors import InputError
from tests.tiny import tiny_decoder

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Green."}]}
LONG = {
    "id": "long",
    "system": "Be brief.",
    "instruction": "Count the words of this text. " * 6,
    "input": "One two three.",
    "output": "There are thirty-nine words in it.",
}
SHARED = {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
TURNS = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello to you."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Now we wait."},
        {"role": "user", "content": "This is never answered."},
    ]
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("tiny"))


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def ready(tiny: Path, data: str | Path, name: str = "im", **settings: Any) -> PreparedData:
    method, given = split_settings(name, {"model": str(tiny), "data": str(data), "validation": 0, **settings})
    request = parse_model(str(tiny))
    examples = load_data(given).training
    return prepare(method, load_fast_tokenizer(request), examples, describe_model(request), given.max_tokens)


def test_every_form_of_a_conversation_is_read(tiny: Path, tmp_path: Path) -> None:
    made = ready(tiny, write(tmp_path / "all.jsonl", SHORT, LONG, SHARED, TURNS))
    roles = [[message.role for message in each.example.messages] for each in made.examples]
    two = ["user", "assistant"]
    assert roles == [two, ["system", *two], two, ["system", *two, *two]]
    assert all(sum(each.parts) == len(each.tokens.ids) for each in made.examples)
    record = made.record()
    assert record["instruction_tokens"] > record["output_tokens"] > 0
    assert record["length_ratio"] == pytest.approx(record["instruction_tokens"] / record["output_tokens"], abs=1e-3)
    assert (record["shortened"], record["left_out"]) == (0, 0)


def test_a_line_separator_inside_a_turn_ends_no_line(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "answer": "c"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert len(ready(tiny, path).examples) == 1


@pytest.mark.parametrize("name", ["it", "im"])
def test_cutting_is_counted_and_examples_without_output_are_left_out(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data = write(tmp_path / "some.jsonl", SHORT, LONG, TURNS)
    whole = ready(tiny, data, name)
    assert capsys.readouterr().err == ""
    longest_first = sorted((len(each.tokens.ids) for each in whole.examples), reverse=True)
    cut = ready(tiny, data, name, max_tokens=longest_first[1] - 2)
    assert (cut.shortened, cut.left_out, len(cut.examples)) == (1, 1, 2)
    assert "1 are cut off" in capsys.readouterr().err
    for before, after in zip([whole.examples[0], whole.examples[2]], cut.examples, strict=True):
        assert after.features.weights == before.features.weights[: len(after.features.ids)]
    with pytest.raises(InputError, match="--max-tokens 3 leaves nothing of the output of any example"):
        ready(tiny, data, name, max_tokens=3)
    with pytest.raises(InputError, match="more than the 1024 positions"):
        ready(tiny, data, name, max_tokens=5000)


def test_a_folder_that_datasets_reads(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "chat"
    folder.mkdir()
    write(folder / "train.jsonl", SHORT, SHORT, SHORT)
    made = ready(tiny, f"hf-dataset:{folder}")
    assert [each.example.id for each in made.examples] == ["row0", "row1", "row2"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"messages": []}], "line 1: messages must be a list of turns, and not empty"),
        ([SHORT, {"messages": SHORT["messages"][:1]}], "line 2: no turn of the assistant's"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], "turn 1: unknown role 'robot'; expected system"),
        ([{"messages": [{"role": "user", "content": " "}, SHORT["messages"][1]]}], "turn 1: the user's turn is empty"),
        ([{"conversations": [{"from": "tool", "value": "x"}]}], "unknown role 'tool'"),
        ([{"conversations": "hello"}], "messages must be a list of turns"),
        ([{"text": "x"}], "expected messages, or prompt and answer; it has 'text'"),
        ([[1]], "expected an object"),
        ([{"messages": SHORT["messages"][1:]}], "example bad.jsonl:1: there is no instruction"),
        ([], "holds no examples"),
    ],
)
def test_bad_lines_are_named(tiny: Path, tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ready(tiny, write(tmp_path / "bad.jsonl", *lines))


def test_bad_lines_are_left_out_where_that_is_asked_for(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "mixed.jsonl", SHORT, {"prompt": "Why?", "answer": " "}, [1], SHORT)
    assert len(ready(tiny, data, skip_bad=True).examples) == 2
    assert "2 of 4 examples" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no examples"):
        ready(tiny, write(tmp_path / "bad.jsonl", [1]), skip_bad=True)


def test_data_that_is_not_there(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected stepgame, a file, or hf-dataset:ID"):
        ready(tiny, tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="names no data set"):
        ready(tiny, "hf-dataset:")
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="cannot be loaded"):
        ready(tiny, f"hf-dataset:{tmp_path}")


def test_inspect_shows_the_weights_of_training(tiny: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "some.jsonl", SHORT, TURNS)

    def shown(name: str, **more: Any) -> list[str]:
        method, settings = split_settings(name, {"model": str(tiny), "data": str(data), "validation": 0, **more})
        return [line.plain for line in inspect_data(method, settings, 1)]

    im, it = shown("im"), shown("it")
    assert "  user      1     [Name][ a][ colour][.]" in im
    assert "  user      0     Name| a| colour|." in it
    assert "  assistant 1     [Green][.][<|im_end|>]" in im
    assert "  assistant 1     [Green][.][<|im_end|>]" in it
    assert "  template  0     \\n" in im
    assert "  template  1     [\\n]" in shown("im", template_tokens="train")
    assert any(line.startswith("  user      0.25") for line in shown("im", prompt_weight=0.25))
    assert any("2 examples to learn from by im" in line for line in im)
    assert any("instruction / output:" in line for line in im)
    data = write(data, {"id": "\x1b[2J", "prompt": "Name \x1b]0;a\x07 colour.", "answer": "Green."})
    steering = shown("im")
    assert any("\ufffd" in line for line in steering)
    assert all(character.isprintable() for line in steering for character in line)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("it", {}),
        ("im", {"train": "lora", "packing": True, "neftune": 5.0, "kl": 0.1, "template_tokens": "train"}),
    ],
)
def test_training_writes_what_the_harness_asks(tiny: Path, tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    adapter = train(
        name, model=str(tiny), out=tmp_path / "out", hops="1-2", n=8, steps=2, batch=4, validation=2, **settings
    )
    assert (adapter.method, adapter.kind) == (name, "lora" if "train" in settings else "weights")
    manifest = json.loads((tmp_path / "out/training/manifest.json").read_text(encoding="utf-8"))
    assert manifest["loss"]["instruction"] == (0.0 if name == "it" else 1.0)
    assert manifest["loss"]["template"] == (1.0 if "template_tokens" in settings else 0.0)
    assert manifest["data"]["length_ratio"] > 10
    result = json.loads((tmp_path / "out/training/result.json").read_text(encoding="utf-8"))
    assert all(entry["eval_train_loss"] > 0 and entry["eval_loss"] > 0 for entry in result["validation"])
    load_model(parse_model(str(tiny), adapter=adapter.folder), lambda _: [])


def test_inspect_on_the_command_line(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "some.jsonl", *[SHORT] * 5)
    with pytest.raises(SystemExit) as end:
        main(["train", "inspect", "--method", "im", "--model", str(tiny), "--data", str(data), "--n", "2"])
    assert not end.value.code
    assert "[Name][ a][ colour][.]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect"], "name it, as in --method im"),
        (["inspect", "--method", "in"], "unknown method 'in'"),
        (["im"], "--out is missing"),
        (["im", "--method", "it", "--out", "x"], "belong to `stepgame train inspect`"),
        (["it", "--prompt-weight", "0.5", "--out", "x"], "it belongs to im"),
    ],
)
def test_refusals_are_one_line(words: list[str], message: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *words, "--model", str(tiny)])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert message in said
    assert len(said.splitlines()) == 1


def test_settings_hold_the_bound() -> None:
    with pytest.raises(InputError, match="--max-tokens must be at least 2"):
        TrainSettings(model="smollm2", max_tokens=1)
