"""docs/formats.md names every key that is written, and no key that is not."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness import evaluate
from harness.compare import compare
from harness.probes import PROBE, probe
from harness.record import MANIFEST, RESULTS, SAMPLES
from stepgame.cli import main
from stepgame.generate import generate
from stepgame.relations import DIRECTIONS
from stepgame.stories import FACT, SCHEMA

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
NAME = re.compile(r"`([a-z][a-z0-9_-]*)`")

OPEN = {"params", "args", "versions", "config", "base", "labels", "hops", "settings", "examples", "metrics"}
"""Keys whose values are tables of whatever there is; so is ``by_k`` where it is no list."""

STORIES: dict[str, Any] = {"hops": "1-2", "per_hop": 3, "noise": True}


def section(heading: str) -> str:
    """Return what stands between a heading and the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[1]


def keys(record: Any, *, of_data: bool = False) -> set[str]:
    """Return the keys of a record at any depth, without those that are data."""
    if isinstance(record, list):
        return set().union(*map(keys, record))
    if not isinstance(record, dict):
        return set()
    found = set() if of_data else set(record)
    for key, value in record.items():
        tabular = not of_data and (key in OPEN or key == "by_k")
        found |= keys(value, of_data=tabular and isinstance(value, dict))
    return found


def hold(heading: str, records: Iterable[Any]) -> None:
    """Hold a section to what was written: all keys are named, and those in a table's first column exist."""
    written = keys(list(records))
    text = section(heading)
    firsts = [name for line in text.splitlines() if line.startswith("| `") for name in NAME.findall(line.split("|")[1])]
    assert not written - set(NAME.findall(text)), f"{heading}: written, and not on the page"
    assert firsts and not set(firsts) - written, f"{heading}: on the page, and not written"


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> list[Path]:
    """Return a run of every kind that needs neither a server nor a cluster."""
    pytest.importorskip("torch")
    import torch

    from harness.models.builtin import checkpoint_hash
    from tests.random_adapters import soft_prompt
    from tests.tiny import tiny_decoder

    folder = tmp_path_factory.mktemp("runs")
    model = str(tiny_decoder(folder / "model"))
    base = {"spec": model, "content_hash": checkpoint_hash(model, None), "hidden_size": 32}
    soft = soft_prompt(folder / "soft", torch.randn(50, 32), 0, base=base, prompt_length=2)
    rte = folder / "rte"
    rte.mkdir()
    rows = "sentence1\tsentence2\tlabel\nIt rained.\tIt poured.\tentailment\nIt rained.\tIt snowed.\tnot_entailment\n"
    for split in ("train", "dev", "test"):
        (rte / f"{split}.tsv").write_text(rows, encoding="utf-8")
    asked: list[dict[str, Any]] = [
        {"model": model, "cache": folder / "cache.db", **STORIES},
        {"model": model, "cache": folder / "cache.db", **STORIES},
        {"model": model, "score": "generate", "max_tokens": 2, "prompt": "few-shot", "adapter": soft, **STORIES},
        {"model": model, "score": "generate", "max_tokens": 2, "samples": 2, "temperature": 1.0, **STORIES},
        {"model": "oracle", "score": "generate", **STORIES},
        {"model": "random", "task": "glue/rte", "data": [str(rte)]},
    ]
    return [evaluate(**each, out=folder / f"run{place}").path for place, each in enumerate(asked)]


def test_stories_and_banks() -> None:
    named = set(NAME.findall("".join(re.findall(r"^\| `.*?\|", section("Stories"), re.MULTILINE))))
    assert named == set(SCHEMA.names)
    facts = next(line for line in section("Stories").splitlines() if line.startswith("| `facts`"))
    assert all(field.name in facts for field in FACT)
    bank = tomllib.loads((ROOT / "stepgame" / "banks" / "plain.toml").read_text(encoding="utf-8"))
    hold("A phrase bank", [bank])
    assert set(bank["phrases"]) == {direction.label for direction in DIRECTIONS}


def test_runs(runs: list[Path]) -> None:
    hold("manifest.json", [json.loads((run / MANIFEST).read_text(encoding="utf-8")) for run in runs])
    hold("samples.jsonl", [read_lines(run / SAMPLES) for run in runs])
    hold("results.json", [json.loads((run / RESULTS).read_text(encoding="utf-8")) for run in runs])


def test_probes(tmp_path: Path) -> None:
    probe("random", **STORIES, out=tmp_path / "probes")
    hold("Probes", [json.loads((tmp_path / "probes" / PROBE).read_text(encoding="utf-8"))])


def test_comparisons(tmp_path: Path) -> None:
    made = [evaluate(name, **STORIES, out=tmp_path / name) for name in ("random", "majority")]
    hold("A comparison", [json.loads(compare(made).write(tmp_path / "c.json").read_text(encoding="utf-8"))])


def test_audits(tmp_path: Path) -> None:
    stories = generate("1-2", n=5, noise=True)
    rows = [{**row, "label": "left"} for row in stories]
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["audit", str(tmp_path / "one.jsonl"), "--against", str(tmp_path / "two.jsonl")]
    with pytest.raises(SystemExit):
        main([*words, "--json", str(tmp_path / "audit.json")])
    hold("An audit", [json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))])
