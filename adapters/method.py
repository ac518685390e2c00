"""What a training method is to the one training path: a handful of decisions, and no loop of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from adapters.encode import TEMPLATE, TokenisedConversation
from harness.models.adapters import Kind
from harness.models.architecture import positions_of
from harness.models.base import Message

if TYPE_CHECKING:
    from torch import nn

    from harness.models.adapters import SoftPrompt

__all__ = ["BaseModel", "Features", "Group", "Method", "answer_features"]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What is known of the model to be trained before its weights are loaded.

    Attributes:
        spec: what the user wrote.
        source: folder or hub id.
        content_hash: of its files; empty for a hub model until its weights are here.
        revision: of a hub model.
        config: transformers' configuration.
    """

    spec: str
    source: str
    content_hash: str
    revision: str | None
    config: Any

    @property
    def width(self) -> int:
        """Size of an embedding, d."""
        text: Any = self.config.get_text_config(decoder=True)
        return int(getattr(text, "hidden_size", None) or text.d_model)

    @property
    def positions(self) -> int | None:
        """Most positions that the model takes; None where there is no such bound."""
        return positions_of(self.config)

    def record(self) -> dict[str, Any]:
        """Return what ``adapter.json`` holds of it."""
        return {
            "spec": self.spec,
            "revision": self.revision,
            "content_hash": self.content_hash,
            "model_type": self.config.model_type,
            "hidden_size": self.width,
        }


class Features(NamedTuple):
    """A conversation ready to be learnt from.

    Attributes:
        ids: its tokens.
        weights: weight in the training loss of predicting each token.
        response: likewise in the validation loss, which is over the answer whatever the training loss is.
        prompt: how many tokens stand before the last answer.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    response: tuple[float, ...]
    prompt: int


class Group(NamedTuple):
    """Parameters with a learning rate of their own."""

    parameters: Sequence[Any]
    lr: float


class Method(ABC):
    """One way to train a model.

    Args:
        name: as the user calls it.
        config: the method's own settings, a dataclass whose fields are flags of ``stepgame train``.
    """

    kind: Kind
    lr: float
    """Learning rate where none is given."""
    packing: bool = False
    """Whether a row of a batch holds several examples."""
    whole: str | None = None
    """Flag that needs the whole module in one process; None if it may be sharded."""
    encoder_decoders: ClassVar[bool] = False
    """Whether it can train encoder-decoder models."""

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config

    def check(self, base: BaseModel) -> None:  # noqa: B027  most methods fit every model
        """Check the configuration against a model whose weights are not loaded yet.

        Raises:
            InputError: if they do not fit.
        """

    @abstractmethod
    def build(self, base: BaseModel, model: Any, tokenizer: Any, seed: int) -> nn.Module:
        """Return the module that is trained: called with a batch, it gives the summed weighted loss.

        Args:
            base: what the model is.
            model: of transformers, with its weights.
            tokenizer: its own.
            seed: of what starts at random.
        """

    def features(self, tokens: TokenisedConversation, messages: Sequence[Message]) -> Features | None:
        """Weigh a conversation's tokens, the end of which may be cut off; by default only the last answer's count.

        Returns:
            None if no token of an answer is left.

        Raises:
            InputError: if the conversation is none that this method learns from.
        """
        return answer_features(tokens, messages)

    def loss(self) -> Mapping[str, Any]:
        """Return what the manifest says of the training loss: the weights of tokens by whose they are, and the rest."""
        return {"instruction": 0.0, "template": 0.0, "output": "1 in the last turn", "reduction": "token"}

    @abstractmethod
    def groups(self, module: nn.Module, lr: float) -> list[Group]:
        """Return the trainable parameters by learning rate."""

    @abstractmethod
    def save(self, module: nn.Module, tokenizer: Any, folder: Path) -> list[str]:
        """Write the tensors into a folder; return the names of the files."""

    @abstractmethod
    def scorable(self, module: nn.Module) -> tuple[Any, SoftPrompt | None]:
        """Return the transformers model, and the soft prompt before it, that the harness can ask."""

    def count(self, rows: Sequence[Features]) -> Mapping[str, Any]:
        """Return what the manifest says of the data besides its size, such as what was cut off."""
        return {}

    def record(self) -> Mapping[str, Any]:
        """Return what decides the function that is computed, as ``adapter.json`` holds it."""
        return {}


def answer_features(tokens: TokenisedConversation, messages: Sequence[Message]) -> Features | None:
    """Weigh the tokens of the last answer 1 and all others 0; None if it has none."""
    last = len(messages) - 1
    weights = tuple(float(owner == last and owner != TEMPLATE) for owner in tokens.owners)
    if not any(weights[1:]):
        return None
    return Features(tokens.ids, weights, weights, tokens.answer)
