# Needs Python 3.11+ and make, nothing else. Every target first makes .venv and installs pins.txt
# into it, once. Paths are relative, so the clone may stand in a folder with blanks in its name.

# Two threads on a small machine spin against each other: ten times slower than one.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE

PYTHONS := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11
NEW_ENOUGH := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
DEFAULT := not (docker or postgres or vllm or browser or slow)

.PHONY: install demo test test-all lint clean

install: .venv/installed

# The package itself is linked last, without network: its dependencies are the pins.
.venv/installed: pins.txt pyproject.toml
	@for python in $(PYTHONS); do \
	  if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then break; else python=; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'No Python 3.11+ with venv found; install one (Debian: python3-venv), or name it: make PYTHON=/path/to/python3' >&2; \
	  exit 1; \
	fi; \
	echo 'Installing into .venv (once; some minutes, PyTorch is large)'; \
	$$python -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r pins.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch .venv/installed

demo: .venv/installed
	@n=1; while [ -e runs/demo-$$n ]; do n=$$((n + 1)); done; \
	.venv/bin/palaestra train configs/tiny.toml out=runs/demo-$$n

test: .venv/installed
	.venv/bin/pytest tests -m '$(DEFAULT)'

test-all: .venv/installed
	.venv/bin/pytest tests

# mypy needs the folder to be called like the package, hence the link.
lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@mkdir -p .check && ln -sfn .. .check/palaestra
	cd .check && ../.venv/bin/mypy --config-file ../pyproject.toml -p palaestra

clean:
	rm -rf .venv .check build dist *.egg-info
