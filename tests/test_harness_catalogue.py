"""Tasks of the catalogue: files and splits, labels, metrics, suites, training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.data import load_data
from adapters.settings import TrainSettings
from harness import evaluate
from harness.record import load_run
from harness.run import rescore, resume
from harness.settings import RunSettings
from harness.suite import perform_suite
from harness.tasks import known_tasks, make_task
from harness.tasks.catalogue import SPLITS, load_suites, load_task_specs
from harness.tasks.metrics import METRICS
from stepgame.errors import InputError
from tests.tiny import tiny_decoder

SST2 = 'sentence\tlabel\na "fine film\t1\ndull .\t0\nmoving and true\t1\n'


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return folder


def test_every_task_of_both_papers_is_there_with_known_metrics_and_answers() -> None:
    specs, suites = load_task_specs(), load_suites()
    assert (
        {task for suite in suites.values() if not suite.by_lm_eval for task in suite.tasks}
        == set(specs)
        <= set(known_tasks())
    )
    dept = [task for name in ("glue", "superglue", "mrqa", "dept-others") for task in suites[name].tasks]
    pcp = [task for name in ("pcp-single", "pcp-pair", "pcp-ssl") for task in suites[name].tasks]
    assert len(set(dept)) == len(set(pcp)) == 21
    for spec in specs.values():
        assert set(spec.metrics) <= set(METRICS)
        assert len(spec.options) == len(set(spec.options))
        assert not spec.labels or len(spec.labels) == len(spec.options)
        assert spec.kind == "span" or spec.options or spec.scale
        assert "f1" not in spec.metrics or spec.positive in spec.options
        assert set(spec.file_labels) <= set(spec.labels)
    assert suites["pcp-pair"].metric("glue/mrpc") == "f1"
    assert suites["glue"].metric("glue/mrpc") == "accuracy"


def test_tables_are_read_as_they_stand(tmp_path: Path) -> None:
    task = make_task("glue/sst2", {"file": str(write(tmp_path / "a", test_tsv=SST2, train_tsv=SST2))})
    assert [(each.story, each.gold) for each in task.examples] == [
        (('a "fine film',), "great"),
        (("dull .",), "terrible"),
        (("moving and true",), "great"),
    ]
    bare = write(tmp_path / "b", test_csv='2,"What, pray, is it ?"\n0,Who is he like ?\n', dev_csv="5,How many ?\n")
    trec = make_task("trec", {"file": str(bare)})
    assert [(each.story[0], each.gold) for each in trec.examples] == [
        ("What, pray, is it ?", "expression"),
        ("Who is he like ?", "description"),
    ]
    assert make_task("trec", {"file": str(bare), "split": "validation"}).examples[0].gold == "number"
    # The hub's own numbers mean other classes.
    hub = write(tmp_path / "c", test_jsonl='{"text": "Who is he like ?", "coarse_label": 0}\n')
    assert make_task("trec", {"file": str(hub)}).examples[0].gold == "expression"
    mrpc = write(tmp_path / "d", test_tsv="\ufeffQuality\t#1 ID\t#1 String\t#2 String\n1\t9\tone\ttwo\n")
    assert make_task("glue/mrpc", {"file": str(mrpc)}).examples[0].story == (
        "First sentence: one\nSecond sentence: two",
    )


def test_missing_splits_are_made_as_the_papers_do(tmp_path: Path) -> None:
    rows = "sentence1\tsentence2\tlabel\n" + "".join(f"text {n}\tclaim {n}\tentailment\n" for n in range(11))
    folder = str(write(tmp_path / "rte", train_tsv=rows, dev_tsv=rows))
    ids = {s: {e.id for e in make_task("glue/rte", {"file": folder, "split": s}).examples} for s in SPLITS}
    assert [len(ids[split]) for split in ids] == [11, 5, 6]
    assert not ids["validation"] & ids["test"]
    many = "sentence\tlabel\n" + "".join(f"text {n}\t{n % 2}\n" for n in range(1005))
    large = str(write(tmp_path / "sst2", train_tsv=many, dev_tsv=SST2))
    sizes = [len(make_task("glue/sst2", {"file": large, "split": split}).examples) for split in SPLITS]
    assert sizes == [5, 1000, 3]
    some = make_task("glue/sst2", {"file": large, "split": "train", "limit": 2, "seed": 1})
    assert len(some.examples) == len(some.training(2)) == 2


@pytest.mark.parametrize(
    ("task", "files", "said"),
    [
        ("glue/sst2", {"test_tsv": "sentence\tlabel\nfine\t7\n"}, r"test.tsv, row 2: label is '7'"),
        (
            "glue/sst2",
            {"test_tsv": "text\tlabel\nfine\t1\n"},
            r"row 2: there is no column 'sentence'; it has text, label",
        ),
        ("glue/sst2", {"train_tsv": SST2}, "has no test split; it has train"),
        ("glue/sst2", {"test_jsonl": "[1]\n"}, "expected one JSON object a line"),
        ("glue/sst2", {"other_tsv": SST2}, "no train, validation or test"),
        ("glue/stsb", {"test_tsv": "sentence1\tsentence2\tscore\na\tb\thigh\n"}, "expected a number from 0.0 to 5.0"),
        ("mrqa/nq", {"test_jsonl": '{"context": "c", "question": "q", "answers": []}\n'}, "expected a list of texts"),
    ],
)
def test_bad_data_is_named(task: str, files: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        make_task(task, {"file": str(write(tmp_path / "data", **files))})


def test_without_a_network_one_line_says_how_to_give_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        InputError, match=r"nyu-mll/glue \(sst2\), which is not to be had here .*no route to host.*--data DIR"
    ):
        make_task("glue/sst2", {})
    with pytest.raises(InputError, match="no copy of it on the hub is known"):
        make_task("cr", {})


def line(name: str, prediction: str | None, error: str | None = None) -> dict[str, Any]:
    return {"id": name, "prediction": prediction, "error": error}


def test_metrics_are_those_of_the_papers(tmp_path: Path) -> None:
    labels = [1, 1, 1, 0, 0, 1]
    rows = "Quality\t#1 String\t#2 String\n" + "".join(f"{label}\ta\tb\n" for label in labels)
    mrpc = make_task("glue/mrpc", {"file": str(write(tmp_path / "mrpc", test_tsv=rows))})
    answers = ["yes", "yes", None, "yes", "no", "no"]
    lines = [line(f"glue/mrpc-test-{n}", answer) for n, answer in enumerate(answers)]
    lines[-1]["error"] = "lost"
    # Of five that were answered three are right; 2 of 3 of those said to be alike are, and 2 of 3 that are were found.
    assert mrpc.measure(lines) == pytest.approx({"accuracy": 3 / 5, "f1": 2 / 3})
    rows = "score\tsentence1\tsentence2\n" + "".join(f"{score}\ta\tb\n" for score in (0.0, 1.25, 3.333, 5.0))
    stsb = make_task("glue/stsb", {"file": str(write(tmp_path / "stsb", test_tsv=rows))})
    assert [each.gold for each in stsb.examples] == ["0.0", "1.2", "3.4", "5.0"]
    lines = [line(f"glue/stsb-test-{n}", answer) for n, answer in enumerate(("0.0", "2.0", "1.0", "4.0"))]
    assert stsb.measure(lines) == pytest.approx({"pearson": 0.7987, "spearman": 0.8}, abs=1e-4)
    constant = [{**each, "prediction": "1.0"} for each in lines]
    assert stsb.measure(constant) == {"pearson": None, "spearman": None}
    row = {
        "context": "The Eiffel Tower stands in Paris.",
        "question": "Where?",
        "answers": ["in Paris", "Paris, France"],
    }
    nq = make_task("mrqa/nq", {"file": str(write(tmp_path / "nq", test_jsonl=json.dumps(row) + "\n"))})
    example = nq.examples[0]
    assert nq.extract("Answer: the paris france.", example).strict == "in Paris"
    assert nq.extract("Paris it is\nAnswer: old Paris", example).flexible == "old Paris"
    assert nq.extract("Answer: \n", example).status == "empty"
    assert nq.measure([line(example.id, "old Paris")]) == {"squad_f1": 0.5, "squad_em": 0.0}


def test_a_run_records_metrics_and_is_made_again_from_its_manifest(tmp_path: Path) -> None:
    folder = write(tmp_path / "sst2", test_tsv=SST2, train_tsv=SST2)
    run = evaluate("random", "glue/sst2", data=folder, limit=2, seed=3, out=tmp_path / "run")
    assert run.results is not None and run.results["metrics"]["accuracy"] == run.results["accuracy"]
    assert run.manifest["task"]["params"] == {"file": [str(folder)], "split": "test", "limit": 2, "seed": 3}
    assert rescore(tmp_path / "run").results == resume(tmp_path / "run").results == run.results
    (folder / "test.tsv").write_text(SST2.replace("dull", "bright"), encoding="utf-8")
    with pytest.raises(InputError, match="data is no longer"):
        resume(tmp_path / "run")


def test_a_suite_asks_every_task_and_checks_all_of_them_first(tmp_path: Path) -> None:
    claims = "premise\thypothesis\tlabel\na\tb\t0\nc\td\t1\n"
    data = tmp_path / "data"
    write(data / "CB", test_tsv=claims)
    bools = "passage\tquestion\tlabel\na\tis it\t1\n"
    write(data / "boolq", test_tsv=bools)
    write(data / "MultiRC", test_tsv="paragraph\tquestion\tanswer\tlabel\na\tb\tc\t1\n")
    write(data / "wic", test_tsv="sentence1\tsentence2\tword\tlabel\na\tb\tc\tTrue\n")
    settings = RunSettings.of(model="random", data=data, out=tmp_path / "out")
    with pytest.raises(InputError, match="no folder for task 'superglue/wsc'"):
        perform_suite(settings, "superglue", ())
    assert not (tmp_path / "out").exists()
    write(data / "WSC", test_tsv="text\tspan1_text\tspan2_text\tlabel\na\tb\tc\t0\n")
    rows = perform_suite(settings, "superglue", ())
    written = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert (
        [row.task for row in rows]
        == [each["task"] for each in written["tasks"]]
        == list(load_suites()["superglue"].tasks)
    )
    assert written["mean"] == pytest.approx(sum(row.value or 0 for row in rows) / 5)
    assert load_run(tmp_path / "out" / "superglue-cb").manifest["task"]["n"] == 2


def test_adapters_learn_from_a_tasks_own_splits(tmp_path: Path) -> None:
    folder = write(tmp_path / "sst2", train_tsv=SST2, dev_tsv=SST2, test_tsv=SST2)
    data = load_data(TrainSettings(model="smollm2", task="glue/sst2", data=str(folder), validation=2))
    assert [each.messages[-1].content for each in data.training] == ["great", "terrible", "great"]
    assert len(data.validation) == 2
    assert all(each.id.startswith("glue/sst2-validation") and each.asked for each in data.validation)
    with pytest.raises(InputError, match="--n 9 is more"):
        load_data(TrainSettings(model="smollm2", task="glue/sst2", data=str(folder), n=9))


def test_a_soft_prompt_is_trained_on_a_task_and_asked_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from adapters import train

    model = str(tiny_decoder(tmp_path / "tiny"))
    folder = write(tmp_path / "sst2", train_tsv=SST2, dev_tsv=SST2, test_tsv=SST2)
    learnt: Any = {"prompt_length": 3, "rank": 2, "steps": 20, "batch": 3, "lr": 0.1, "validation": 3}
    adapter = train("dept", model=model, task="glue/sst2", data=folder, out=tmp_path / "dept", **learnt)
    result = json.loads((adapter.folder / "training/result.json").read_text(encoding="utf-8"))
    run = evaluate(model, "glue/sst2", data=folder, adapter=adapter.folder, out=tmp_path / "run")
    assert run.results is not None
    # Validation and test hold the same lines here.
    assert run.results["accuracy"] == pytest.approx(result["best"])
    assert run.results["accuracy"] > 0.6


def test_the_list_names_size_metric_and_source(command_line: Any) -> None:
    done = command_line("tasks", "--suite", "glue")
    cola = next(row for row in done.stdout.splitlines() if row.startswith("glue/cola"))
    assert all(word in cola for word in ("8,551", "522", "matthews", "nyu-mll/glue (cola)"))
    assert "unknown suite" in command_line("tasks", "--suite", "glu").stderr
