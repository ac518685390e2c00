"""Replicas of a model on a Ray cluster: each an actor that loads the model and answers chunks of prompts.

The run's process stays the one writer. At most `AHEAD` chunks wait at a replica, so that nothing piles up anywhere.
What a lost replica was asked is asked again, once, of the others, or of a new one where none is left; a chunk that is
lost twice is recorded as an error, which ``stepgame resume`` asks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from harness.asking import Answers, Replicas, answer
from harness.models.base import Failure, Identity, Model, ModelRequest, Prompt, Sampling
from harness.models.registry import load_model
from harness.progress import say
from harness.provenance import versions
from stepgame.cluster import connected
from stepgame.errors import InputError, StepGameError

__all__ = ["AHEAD", "CHUNK", "ModelReplica", "ReplicaPool", "replicas_on"]

CHUNK = 32
"""Prompts that a replica is given at once; small enough that little is asked again, and that all end together."""
AHEAD = 2
"""Chunks at a replica: one that it works on, and one that waits."""
TRIES = 2
"""How often a chunk is asked."""


class ModelReplica:
    """One copy of the model, in a process of the cluster."""

    def __init__(self) -> None:
        self._model: Model | None = None

    def load(self, request: ModelRequest) -> tuple[Identity, dict[str, str]]:
        """Load the model; return which one it is, and this machine's versions."""
        self._model = load_model(request, lambda _: ())
        return self._model.identity, versions()

    def ask(self, prompts: Sequence[Prompt], sampling: Sampling | None) -> Answers:
        """Answer prompts, in their order."""
        assert self._model is not None
        texts: list[str | None] = [None] * len(prompts)
        replies: list[Any] = [None] * len(prompts)
        seconds = 0.0
        for batch in self._model.batches(prompts):
            part = answer(self._model, [prompts[place] for place in batch], sampling)
            seconds += part.seconds
            for place, text, reply in zip(batch, part.texts, part.replies, strict=True):
                texts[place], replies[place] = text, reply
        return Answers(texts, replies, seconds)


@contextmanager
def replicas_on(wanted: Replicas, request: ModelRequest) -> Iterator[ReplicaPool]:
    """Connect to a cluster and load replicas of a model on it.

    Raises:
        InputError: if the cluster does not answer, has too little, or the model cannot be loaded there.
    """
    with connected(wanted.engine) as ray:
        yield ReplicaPool(ray, wanted, request)


class ReplicaPool:
    """Replicas that are loaded.

    Args:
        ray: connected.
        wanted: how many, and on what.
        request: the model.

    Raises:
        InputError: if the cluster has too little, a replica cannot load the model, or the machines differ.
    """

    def __init__(self, ray: Any, wanted: Replicas, request: ModelRequest) -> None:
        self._ray = ray
        self._request = request
        there = ray.cluster_resources()
        for name, need in (("CPU", wanted.count), ("GPU", wanted.count * wanted.gpus)):
            if need > there.get(name, 0):
                raise InputError(
                    f"{wanted.count} replicas need {need:g} {name}s, and the cluster has {there.get(name, 0):g}; "
                    "lower --replicas or --gpus-per-replica"
                )
        # The cores that a replica computes with, where it has no GPU.
        cores = 1 if wanted.gpus else max(1, int(_cores_of_a_node(ray) // -(-wanted.count // _nodes(ray))))
        self._actor = ray.remote(ModelReplica).options(num_cpus=cores, num_gpus=wanted.gpus, max_restarts=0)
        self._replicas = [self._actor.remote() for _ in range(wanted.count)]
        self.identity = self._load(self._replicas)

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling | None) -> Iterator[tuple[list[int], Answers]]:
        """Answer prompts in chunks, as they come; see `harness.asking.Asked.answers`."""
        chunks = [list(range(start, min(start + CHUNK, len(prompts)))) for start in range(0, len(prompts), CHUNK)]
        waiting = deque((chunk, 1) for chunk in chunks)
        under_way: dict[Any, tuple[list[int], int, Any]] = {}
        while waiting or under_way:
            for replica in self._replicas:
                while waiting and sum(each is replica for _, _, each in under_way.values()) < AHEAD:
                    chunk, tries = waiting.popleft()
                    asked = replica.ask.remote([prompts[place] for place in chunk], sampling)
                    under_way[asked] = (chunk, tries, replica)
            (done, *_), _ = self._ray.wait(list(under_way), num_returns=1)
            chunk, tries, replica = under_way.pop(done)
            try:
                yield chunk, self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except self._ray.exceptions.RayError as error:
                self._lost(replica)
                if tries < TRIES:
                    waiting.appendleft((chunk, tries + 1))
                    continue
                reason = f"the replica that was asked was lost {tries} times: {str(error).strip().splitlines()[0]}"
                yield chunk, Answers([None] * len(chunk), [Failure(reason)] * len(chunk), 0.0)

    def _lost(self, replica: Any) -> None:
        if replica not in self._replicas:
            return
        self._replicas.remove(replica)
        say(f"a replica was lost, {len(self._replicas)} are left; what it was asked is asked again")
        if not self._replicas:
            new = [self._actor.remote()]
            if self._load(new) != self.identity:
                raise InputError("the replica that took the place of the lost ones runs another model")
            self._replicas = new

    def _load(self, replicas: Sequence[Any]) -> Identity:
        try:
            found = self._ray.get([replica.load.remote(self._request) for replica in replicas])
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError as error:
            raise InputError(f"a replica was lost while it loaded the model: {_last_line(error)}") from None
        here = versions()
        identity: Identity = found[0][0]
        for each, there in found:
            differs = next((name for name in here if there.get(name) != here[name]), None)
            if differs is not None:
                raise InputError(
                    f"a machine of the cluster has {differs} {there.get(differs, 'not at all')}, this one "
                    f"{here[differs]}; install the same on all of them"
                )
            if asdict(each) != asdict(identity):
                raise InputError("the replicas do not run the same model; is the folder the same on every machine?")
        return identity


def _nodes(ray: Any) -> int:
    return max(1, sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes()))


def _cores_of_a_node(ray: Any) -> float:
    """Return the cores of the smallest machine that has some."""
    return min(
        (node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")), default=1
    )


def _cause(error: Any) -> Exception:
    """Return what went wrong in a replica, as it would be raised here."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, StepGameError):
        return type(cause)(str(cause))
    return InputError(f"a replica failed: {_last_line(error)}")


def _last_line(error: Exception) -> str:
    """Return what an error says at its end, behind Ray's traceback."""
    return str(error).strip().rsplit("\n", maxsplit=1)[-1]
