"""What a training would learn from, token by token, seen before anything is trained; loads the tokenizer only."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from adapters.data import load_data
from adapters.describe import describe_model, load_fast_tokenizer
from adapters.encode import TEMPLATE
from adapters.method import Method
from adapters.prepare import Prepared, PreparedData, prepare
from adapters.settings import TrainSettings
from harness.models.builtin import quiet_transformers
from harness.models.registry import parse_model
from stepgame.terminal import printable

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["inspect_data"]

_STYLES = {0.0: "dim", 1.0: "bold green"}
_BETWEEN = "yellow"
"""Style of tokens whose weight is neither 0 nor the whole."""


def inspect_data(method: Method, settings: TrainSettings, show: int) -> Iterator[Text]:
    """Yield lines that show some examples with each token's weight, and statistics of all.

    Args:
        method: weighs the tokens.
        settings: name the model and the data, as for training.
        show: how many examples are shown.

    Raises:
        InputError: where training would raise one.
    """
    from rich.text import Text

    quiet_transformers()
    request = parse_model(settings.model, dtype=settings.dtype, device=settings.device)
    base = describe_model(request)
    tokenizer = load_fast_tokenizer(request)
    data = load_data(settings)
    ready = prepare(method, tokenizer, data.training, base, settings.max_tokens)
    yield Text("Tokens that the loss is over stand in [brackets]; their weight stands before them.")
    for each in ready.examples[:show]:
        yield Text()
        yield from _example(each, tokenizer)
    yield Text()
    yield from map(Text, _statistics(method, data.name, ready))


def _example(each: Prepared, tokenizer: Any) -> Iterator[Text]:
    """Yield one line for each run of tokens with the same owner and weight."""
    from rich.text import Text

    parts = each.parts
    yield Text(
        f"{printable(each.example.id)}: {len(each.tokens.ids)} tokens, {parts.instruction} of the instruction, "
        f"{parts.output} of the output, {parts.template} of the template",
        style="bold",
    )
    top = max(each.features.weights)
    for owner, weight, words in _runs(each, tokenizer):
        name = "template" if owner == TEMPLATE else each.example.messages[owner].role
        style = _STYLES.get(weight / top, _BETWEEN)
        line = Text(f"  {name:<9} {weight:<5.3g} ")
        shown = "".join(f"[{word}]" for word in words) if weight else "|".join(words)
        line.append(shown, style=style)
        yield line


def _runs(each: Prepared, tokenizer: Any) -> Iterator[tuple[int, float, list[str]]]:
    rows = list(zip(each.tokens.ids, each.tokens.owners, each.features.weights, strict=True))
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end][1:] != rows[start][1:]:
            words = [_visible(tokenizer.decode([token])) for token, _, _ in rows[start:end]]
            yield rows[start][1], rows[start][2], words
            start = end


def _visible(word: str) -> str:
    return printable(word.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r"))


def _statistics(method: Method, name: str, ready: PreparedData) -> Iterator[str]:
    record, parts = ready.record(), [each.parts for each in ready.examples]
    ratios = [each.instruction / each.output for each in parts]
    weighted = sum(sum(weight != 0 for weight in row.weights) for row in ready.rows)
    yield f"{name}: {record['examples']} examples to learn from by {method.name}, {record['tokens']} tokens"
    yield (
        f"  whose tokens they are: instruction {record['instruction_tokens']}, output {record['output_tokens']}, "
        f"template {record['template_tokens']}"
    )
    yield f"  the loss is over {weighted} tokens ({weighted / record['tokens']:.1%})"
    yield (f"  instruction / output: {record['length_ratio']:.2f} of all tokens; of single examples {_spread(ratios)}")
    yield f"  tokens of an example: {_spread([len(row.ids) for row in ready.rows])}"
    yield f"  cut off: {record['shortened']}; left out because nothing of the output was left: {record['left_out']}"


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}, median {statistics.median(values):.4g}"
