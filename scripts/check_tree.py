"""Check what no linter checks: sizes of files and functions, layers, and that public names are documented.

Run as ``python scripts/check_tree.py``; prints every finding and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("stepgame", "harness", "adapters", "leaderboards")
MAX_FILE, MAX_FUNCTION = 600, 60

# stepgame/cli.py names the verbs of all packages as text and imports none of them.
HEAVY = {"torch", "transformers", "vllm", "openai", "matplotlib"}
# Modules that exist for a heavy library may import it at module level.
HEAVY_ALLOWED = {
    "harness/models/hf.py",
    "harness/models/masked.py",
    "harness/models/positions.py",
    "harness/models/vllm.py",
    "harness/models/vllm_engine.py",
    "harness/models/vllm_adapters.py",
    "harness/models/openai.py",
    "harness/choice.py",
    "leaderboards/plots.py",
    "adapters/causal.py",
    "adapters/dept/model.py",
    "adapters/dept/soft_prompt.py",
    "adapters/dept/convert.py",
    "adapters/loss.py",
    "adapters/pcp/encoder.py",
    "adapters/pcp/learners.py",
    "adapters/pcp/modules.py",
    "adapters/pcp/pipeline.py",
    "adapters/pcp/soft.py",
    "adapters/pcp/stage.py",
    "adapters/processes.py",
    "adapters/server.py",
    "adapters/trainer.py",
    "adapters/training.py",
}


def imported(node: ast.AST) -> list[str]:
    """Return the top-level packages an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


def typing_only(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes under ``if TYPE_CHECKING``."""
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    return {inner for block in blocks for inner in ast.walk(block)}


def exported(tree: ast.Module) -> list[str]:
    """Return the names in ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Yield public functions and classes that are defined here without a docstring."""
    public = set(exported(tree))
    for node in tree.body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and node.name in public and not ast.get_docstring(node):
            yield node.name


def layer_faults(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield imports that point down the layers, and heavy libraries imported at module level."""
    layer = LAYERS.index(name.split("/", maxsplit=1)[0])
    below = set(LAYERS[layer + 1 :])
    skipped = typing_only(tree)
    for node in ast.walk(tree):
        for package in imported(node):
            if package in below:
                yield f"line {node.lineno}: imports {package}, which lies below it"  # type: ignore[attr-defined]
    for node in tree.body:
        for package in imported(node):
            if package in HEAVY and node not in skipped and name not in HEAVY_ALLOWED:
                yield f"line {node.lineno}: imports {package} at module level"


def findings(path: Path) -> Iterator[str]:
    """Yield everything wrong with one file."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.count("\n")
    if lines > MAX_FILE:
        yield f"{name}: {lines} lines; at most {MAX_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines; at most {MAX_FUNCTION}"
    if name.split("/")[0] in LAYERS:
        if not path.name.startswith("_") and not exported(tree) and path.name != "__init__.py":
            yield f"{name}: no __all__"
        for public in undocumented(tree):
            yield f"{name}: {public} has no docstring"
        for fault in layer_faults(name, tree):
            yield f"{name}: {fault}"


def main() -> int:
    """Check every Python file of the project."""
    folders = (*LAYERS, "tests", "benchmarks", "experiments", "scripts")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [finding for path in files for finding in findings(path)]
    for finding in found:
        print(finding)
    print(f"{len(files)} files, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
