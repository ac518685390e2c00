"""A Ray cluster gives what this process gives, also when a machine of it is lost in the middle."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import evaluate
from harness.asking import Replicas
from harness.models.registry import parse_model
from harness.prompts import load_prompt
from harness.tasks import make_task
from stepgame.errors import InputError
from stepgame.generate import Recipe, stream
from tests.ports import free_port
from tests.tiny import tiny_decoder

ray = pytest.importorskip("ray")
from ray import cloudpickle  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster whose head does no work."""
    from ray.cluster_utils import Cluster

    port = free_port()
    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": port}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.client = f"ray://127.0.0.1:{port}"
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def nodes(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Give the cluster two machines of one core, and make it the one that ``--engine ray`` means."""
    made = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield made
    ray.shutdown()
    for node in made:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)


def test_stories_have_the_same_bytes_though_a_machine_is_lost(cluster: Any, nodes: list[Any]) -> None:
    from stepgame.cluster import BlockMaker, connected

    recipe = Recipe((2, 40), 60_000, noise=True, seed=4)
    local = (part.table for part in stream(recipe))
    with connected("ray") as connection:
        maker = BlockMaker(connection)
        assert maker.ahead == 4
        for number, part in enumerate(stream(recipe, submit=maker, ahead=maker.ahead)):
            assert part.table.equals(next(local))
            if number == 0:
                cluster.remove_node(nodes[0])
    assert next(local, None) is None


def test_answers_are_the_same_and_none_is_lost_or_double_though_a_machine_is_lost(
    cluster: Any, nodes: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness import replicas

    monkeypatch.setattr(replicas, "CHUNK", 4)
    model = str(tiny_decoder(tmp_path / "tiny"))
    asked: Any = {"hops": [1, 2, 3], "per_hop": 40, "noise": True}
    local = evaluate(model, out=tmp_path / "local", **asked)

    def kill() -> None:
        samples = tmp_path / "ray" / "samples.jsonl"
        while not (samples.exists() and samples.stat().st_size):
            time.sleep(0.01)
        cluster.remove_node(nodes[0])

    killer = threading.Thread(target=kill)
    killer.start()
    run = evaluate(model, out=tmp_path / "ray", engine="ray", replicas=2, **asked)
    killer.join()
    assert "a replica was lost, 1 are left" in capfd.readouterr().err
    written = [json.loads(line) for line in (tmp_path / "ray" / "samples.jsonl").read_text().splitlines()]
    assert len(written) == len({line["id"] for line in written}) == 120
    assert run.results is not None and local.results is not None and run.results["errors"] == 0
    here, there = ({line["id"]: line for line in each.samples()} for each in (local, run))
    assert here.keys() == there.keys()
    for name, line in here.items():
        assert there[name]["prompt"] == line["prompt"]
        assert there[name]["prediction"] == line["prediction"]
        assert there[name]["logprobs"] == pytest.approx(line["logprobs"], abs=1e-3)
    assert run.manifest["replicas"] == {"engine": "ray", "count": 2, "gpus": 0.0}
    assert run.manifest["model"]["content_hash"] == local.manifest["model"]["content_hash"]


def test_a_client_port_is_as_good(cluster: Any, nodes: list[Any], tmp_path: Path) -> None:
    from stepgame.cluster import BlockMaker, connected

    model = str(tiny_decoder(tmp_path / "tiny"))
    asked: Any = {"hops": [1, 2], "per_hop": 10, "noise": True}
    runs = [
        evaluate(model, out=tmp_path / "local", **asked),
        evaluate(model, out=tmp_path / "client", engine=cluster.client, replicas=2, **asked),
    ]
    here, there = ({line["id"]: line["prediction"] for line in run.samples()} for run in runs)
    assert here == there
    recipe = Recipe((2, 40), 20_000, noise=True, seed=4)
    with connected(cluster.client) as connection:
        maker = BlockMaker(connection)
        for part, local in zip(stream(recipe, submit=maker, ahead=maker.ahead), stream(recipe), strict=True):
            assert part.table.equals(local.table)


def test_a_client_whose_server_hung_is_given_another_one(
    cluster: Any, nodes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepgame.cluster import connected

    start, failures = ray.init, ["RuntimeError: it hung", "RuntimeError: it hung again"]

    def init(**settings: Any) -> Any:
        if failures:
            raise ConnectionAbortedError(f"Initialization failure from server:\nTraceback\n{failures.pop(0)}\n")
        return start(**settings)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match="Initialization failure from server: RuntimeError: it hung again"):
        connected(cluster.client).__enter__()
    failures = ["RuntimeError: it hung"]
    with connected(cluster.client) as connection:
        assert connection.is_initialized()


def test_a_chunk_that_is_lost_twice_is_an_error_and_not_asked_again(
    nodes: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.replicas import ModelReplica, replicas_on

    examples = make_task("stepgame", {"hops": 1, "per_hop": 2}).examples
    prompts = [load_prompt("zero-shot", "choice").render(each) for each in examples]
    # The cluster's processes cannot import this module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ModelReplica, "ask", _die)
    request = parse_model(str(tiny_decoder(tmp_path / "tiny")))
    with (
        pytest.raises(InputError, match="3 replicas need 3 CPUs, and the cluster has 2"),
        replicas_on(Replicas("ray", 3), request),
    ):
        pass
    with replicas_on(Replicas("ray", 2), request) as pool:
        ((places, answers),) = pool.answers(prompts, None)
    assert places == [0, 1]
    assert all("lost 2 times" in reply.error for reply in answers.replies)


def _die(self: Any, prompts: Any, sampling: Any) -> None:
    os._exit(1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "rya"}, "unknown engine 'rya'"),
        ({"replicas": 2}, "--replicas is for a cluster"),
        ({"engine": "ray", "model": "oracle"}, "for models that run weights"),
        ({"engine": "ray", "cache": "answers"}, "--cache is a file of this machine"),
        ({"engine": "ray", "replicas": 0}, "--replicas must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(settings.pop("model", "smollm2"), out=tmp_path / "run", per_hop=1, **settings)
    assert not (tmp_path / "run").exists()
