# Two commands for readers: `make lab` and `make test`. The rest is for maintainers.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CPU_TORCH := https://download.pytorch.org/whl/cpu
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test book site-test student execute stamp publish-address colab bench clean

lab: $(READY)  ## open JupyterLab on the course; ARGS="--no-browser --port 9999" passes options on
	$(BIN)/jupyter lab $(ROOT_FLAG) $(ARGS) notebooks/00_start_here.ipynb

test: $(READY)  ## unit tests, structure tests and every notebook
	LABKIT_RESULTS=$(CURDIR)/_build/results $(BIN)/python -m pytest $(ARGS)

book: $(READY)  ## the website, in _build/html
	$(BIN)/jupyter-book build -W -n --keep-going . $(ARGS)

site-test: $(READY)  ## the website, built and then tried in headless Chromium
	$(MAKE) book ARGS=--all
	@$(BIN)/python -c "import axe_playwright_python, playwright" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --editable ".[site]"
	LABKIT_SITE=1 $(BIN)/python -m pytest tests/site $(ARGS)

colab: $(READY)  ## every notebook in Colab's versions, labkit installed by its setup cell
	$(BIN)/python -m tools.colab $(ARGS)

student: $(READY)  ## the notebooks without solutions, answers and outputs, in _build/student
	$(BIN)/python -m tools.student $(ARGS)

execute: $(READY)  ## run the notebooks in place on MNIST, from clean kernels
	$(BIN)/python -m tools.execute $(ARGS)

stamp: $(READY)  ## write badges, setup cells and times into notebooks and README
	$(BIN)/python -m tools.stamp

publish-address: $(READY)  ## REPO=https://github.com/owner/name: write the address everywhere
	@test -n "$(REPO)" || { echo "Say where: make publish-address REPO=https://github.com/owner/name"; exit 1; }
	$(BIN)/python -m tools.stamp "$(REPO)"

bench: $(READY)  ## on an idle machine: our training against textbook loops and the machine's peak
	$(BIN)/python -m tools.bench $(ARGS)

clean:
	rm -rf .venv _build .pytest_cache .ruff_cache *.egg-info
	find labkit notebooks tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# PyPI's torch for Linux on x86-64 is the CUDA build (5 GB), so PyTorch's own CPU index is asked
# first, once and briefly, and alone (--isolated): a CPU torch beside PyPI's torchvision does not
# import. Where it cannot be reached PyPI serves.
$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The Energy Lab needs Python 3.11 or newer; set PYTHON=..., found:"; $(PYTHON) --version; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  $(BIN)/python -m pip install --isolated --quiet --retries 0 --timeout 5 --index-url $(CPU_TORCH) torch torchvision 2>/dev/null \
	    || echo "PyTorch's CPU index cannot be reached; PyPI's larger build will do."; fi
	$(BIN)/python -m pip install --quiet --editable ".[lab,test,book]"
	@$(BIN)/python -c "import torchvision" || \
	  { echo "torchvision does not import beside this torch; run 'make clean' and try again."; exit 1; }
	@touch $(READY)
