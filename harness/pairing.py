"""Which samples of two runs belong together, and why two runs cannot be compared.

A pair of samples counts only if both runs asked the same thing. Where the runs' data hash to the same value, that is
settled; elsewhere both tasks are made again from their manifests and the stories compared word for word.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from harness.record import Run
from harness.task import Example
from harness.tasks import make_task
from stepgame.errors import InputError, unknown_name

__all__ = ["MATCHES", "Match", "Pairing", "Sample", "differing_settings", "pair_samples", "read_samples", "setting"]

Match = Literal["same", "shared", "twins"]
"""How the samples of two runs are paired; see `pair_samples`."""

MATCHES: tuple[Match, ...] = get_args(Match)

_IDENTITY = ("model", "adapter", "task", "prompt", "score", "sampling", "extraction", "seed", "versions", "hardware")
"""What of a manifest says how a run was made."""

_HIDDEN = ("prompt.text.",)
"""Settings that another one stands for: the prompt's hash."""


class Sample(NamedTuple):
    """What of a recorded sample a comparison looks at.

    Attributes:
        id: the sample.
        k: its `k_hop`.
        gold: the right answer.
        prediction: the answer; None where it could not be read, or none came.
        correct: whether the answer is right.
        error: whether no answer came.
        options: how many answers there were to choose from.
    """

    id: str
    k: int
    gold: str
    prediction: str | None
    correct: bool
    error: bool
    options: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs of two runs.

    Attributes:
        pairs: samples of the first run and of the second, in the order of their ids; no errors among them.
        errors: pairs left out because one of the two got no answer.
        missing: stories that both runs should have asked, and one of them has not yet.
        unshared: stories of one run that have no partner in the other.
        clean: for twins, which of the two asked the clean stories: 0 or 1; else None.
    """

    pairs: tuple[tuple[Sample, Sample], ...]
    errors: int
    missing: int
    unshared: int
    clean: int | None = None


def read_samples(run: Run) -> dict[str, Sample]:
    """Return a run's samples by id.

    Raises:
        InputError: if a line lacks a field.
    """
    samples = {}
    for line in run.samples():
        try:
            samples[line["id"]] = Sample(
                line["id"],
                int(line["k_hop"]),
                line["gold"],
                line["prediction"],
                bool(line["correct"]),
                line["error"] is not None,
                len(line["options"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{run.path}: sample {line['id']!r} is incomplete or was changed by hand ({error}); "
                "judge the run again by: stepgame rescore"
            ) from None
    return samples


def pair_samples(
    first: Run, second: Run, samples: tuple[Mapping[str, Sample], Mapping[str, Sample]], match: str = "same"
) -> Pairing:
    """Pair the samples of two runs.

    Args:
        first: a run.
        second: another.
        samples: what `read_samples` returns for the two.
        match: ``"same"`` demands that both runs asked the same data and are complete. ``"shared"`` takes the
            stories that both have answered, equal in id, wording, question, options and gold label. ``"twins"``
            pairs each clean story with its noisy version: equal in id, question, options and gold label, the
            sentences of the one among those of the other.

    Raises:
        InputError: if the runs cannot be paired in this way.
    """
    if match not in MATCHES:
        raise unknown_name("way to match", match, MATCHES)
    same_data = _data(first) == _data(second)
    clean: int | None = None
    asked: set[str]
    if match == "same":
        _check_same(first, second, samples)
        asked = set(samples[0])
        unshared = 0
    elif match == "shared" and same_data:
        asked = samples[0].keys() | samples[1].keys()
        unshared = 0
    else:
        examples = tuple({example.id: example for example in _examples(run)} for run in (first, second))
        both = examples[0].keys() & examples[1].keys()
        if match == "shared":
            asked = {each for each in both if _content(examples[0][each]) == _content(examples[1][each])}
        else:
            asked, clean = _twins(examples[0], examples[1], first, second)
        unshared = len(examples[0]) + len(examples[1]) - 2 * len(asked)
        if not asked:
            raise InputError(f"{first.path} and {second.path} share no story; there is nothing to compare")
    ready = sorted(asked & samples[0].keys() & samples[1].keys())
    pairs = tuple((samples[0][each], samples[1][each]) for each in ready)
    for one, other in pairs:
        if (one.gold, one.k) != (other.gold, other.k):
            raise InputError(
                f"sample {one.id!r} has gold label {one.gold!r} at k {one.k} in {first.path} but {other.gold!r} at "
                f"k {other.k} in {second.path}; one of the two was changed by hand"
            )
    whole = tuple(pair for pair in pairs if not (pair[0].error or pair[1].error))
    if not whole:
        raise InputError(f"{first.path} and {second.path} have no story that both answered; see their errors")
    return Pairing(whole, len(pairs) - len(whole), len(asked) - len(pairs), unshared, clean)


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, with each run's value; None where a run has no such setting."""
    flat = [_flatten({key: run.manifest.get(key) for key in _IDENTITY}) for run in runs]
    keys = sorted({key for each in flat for key in each}, key=lambda key: (_IDENTITY.index(key.split(".")[0]), key))
    settings = {key: [each.get(key) for each in flat] for key in keys if not key.startswith(_HIDDEN)}
    return {key: values for key, values in settings.items() if any(value != values[0] for value in values)}


def setting(run: Run, path: str) -> Any:
    """Return one field of a run's manifest.

    Args:
        run: the run.
        path: the field's keys, joined by dots.

    Raises:
        InputError: if the manifest has no such field.
    """
    value: Any = run.manifest
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(f"{run.path}: the manifest has no {path}; it is incomplete or was changed by hand")
        value = value[key]
    return value


def _flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _data(run: Run) -> tuple[Any, Any]:
    return setting(run, "task.name"), setting(run, "task.data_sha256")


def _content(example: Example) -> tuple[Any, ...]:
    return example.story, example.question, example.options, example.gold


def _check_same(first: Run, second: Run, samples: tuple[Mapping[str, Sample], Mapping[str, Sample]]) -> None:
    if _data(first) != _data(second):
        differ = {key: values for key, values in differing_settings([first, second]).items() if key.startswith("task.")}
        params = {key: values for key, values in differ.items() if key.startswith("task.params.")} or differ
        shown = ", ".join(
            f"{key.removeprefix('task.params.')} {_short(a)} / {_short(b)}" for key, (a, b) in params.items()
        )
        raise InputError(
            f"{first.path} and {second.path} asked different stories ({shown}); runs are compared story by story. "
            "To compare the stories that both asked: --match shared; clean stories with their noisy versions: "
            "--match twins"
        )
    for run, known in zip((first, second), samples, strict=True):
        expected = setting(run, "task.n")
        if len(known) < expected:
            raise InputError(
                f"{run.path} is unfinished ({len(known)} of {expected} asked); go on with: "
                f"stepgame resume {run.path}, or compare what both have answered: --match shared"
            )
    odd = samples[0].keys() ^ samples[1].keys()
    if odd:
        raise InputError(
            f"{first.path} and {second.path} asked the same stories under different ids (such as {min(odd)!r}); "
            "ask both from the same file"
        )


def _examples(run: Run) -> Sequence[Example]:
    """Make a run's examples again.

    Raises:
        InputError: if they are no longer those that were asked.
    """
    name, was = _data(run)
    task = make_task(name, setting(run, "task.params"))
    if task.data_sha256 != was:
        raise InputError(
            f"{run.path}: its stories can no longer be made (their hash is {_short(task.data_sha256)}, was "
            f"{_short(was)}); a data file or the generator has changed since"
        )
    return task.examples


def _twins(
    one: Mapping[str, Example], other: Mapping[str, Example], first: Run, second: Run
) -> tuple[set[str], int | None]:
    """Return the ids of stories whose sentences are among their namesakes', and which side has fewer."""
    found: tuple[set[str], set[str]] = (set(), set())
    for each in one.keys() & other.keys():
        a, b = one[each], other[each]
        if (a.question, a.options, a.gold) != (b.question, b.options, b.gold) or len(a.story) == len(b.story):
            continue
        less, more, side = (a, b, 0) if len(a.story) < len(b.story) else (b, a, 1)
        if Counter(less.story) <= Counter(more.story):
            found[side].add(each)
    if found[0] and found[1]:
        raise InputError(
            f"{first.path} has the noisy version of some stories and the clean one of others; "
            f"compare runs of which one is clean throughout (--clean) and the other noisy (--noise)"
        )
    if not (found[0] or found[1]):
        raise InputError(
            f"{first.path} and {second.path} hold no clean and noisy versions of one story; ask both with the same "
            "--hops, --per-hop, --protocol, --bank, --split and --seed, one with --clean and one with --noise"
        )
    return found[0] | found[1], 0 if found[0] else 1


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
