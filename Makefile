# Two commands for readers: `make lab` and `make test`. The rest is for maintainers: CONTRIBUTING.md.
# The reference is Python 3.13; python3 serves as well. A candidate is run before it is chosen: one
# of pyenv's may exist and not work.
PYTHON ?= $(shell for python in python3.13 "$$HOME"/.pyenv/versions/3.13*/bin/python3.13 python3; do \
	"$$python" -c "import ensurepip, venv" 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
READY := .venv/.ready
EXTRAS := test,book
JOBS ?= 2
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)
export PIP_USER := 0
# An environment is tried before it is trusted: one whose folder was renamed, whose Python is gone or
# whose installation was cut short looks whole.
WORKS := $(BIN)/python -I -c "import importlib.util as i, os, pip; \
	assert all(map(i.find_spec, ('jupyterlab', 'nbval', 'ruff', 'jupyter_book'))); \
	assert os.path.samefile(os.path.dirname(i.find_spec('labkit').origin), 'labkit')"
BROKEN := $(shell $(WORKS) >/dev/null 2>&1 || echo broken)

.PHONY: lab update test gpu book site-test student grade run refresh stamp publish-address colab bench clean $(BROKEN)

lab: $(READY)  ## open JupyterLab on the course; ARGS="--no-browser --port 9999" passes options on
	-@$(BIN)/python -m nbformat.sign notebooks/*.ipynb >/dev/null 2>&1
	$(BIN)/python -m jupyterlab $(ROOT_FLAG) $(ARGS) notebooks/00_start_here.ipynb

update:  ## the newest version; what you changed or ran in notebooks/ is first copied to mine/
	@mine="mine/$$(date +%Y-%m-%d-%H%M%S)"; git diff --name-only --relative HEAD -- notebooks \
	  | while read -r name; do mkdir -p "$$mine" && cp "$$name" "$$mine/" && echo "$$name is kept in $$mine"; done
	git checkout HEAD -- notebooks
	git pull --ff-only

test: $(READY)  ## unit tests, structure tests and every notebook; ARGS="-k fit" selects, JOBS=1: one at a time
	LABKIT_RESULTS="$(CURDIR)/_build/test-results" $(BIN)/python -m pytest \
	  $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder) $(ARGS)

gpu: $(READY)  ## with an NVIDIA GPU on Linux: its times for the status page and README
	$(BIN)/python -m pip install --quiet --editable ".[gpu]"
	$(BIN)/python -m tools.run --gpu $(ARGS)
	$(BIN)/python -m tools.refresh --seen

book: $(READY)  ## the website, in _build/html
	$(BIN)/python -c "from jupyter_book.cli.main import main; main()" build -W -n --keep-going . $(ARGS)

site-test: $(READY)  ## the website, built and then tried in headless Chromium
	$(MAKE) book ARGS=--all
	@$(BIN)/python -c "import axe_playwright_python, playwright" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --editable ".[site]"
	LABKIT_SITE=1 $(BIN)/python -m pytest tests/site $(ARGS)

colab: $(READY)  ## every notebook in Colab's versions, labkit installed by its setup cell
	$(BIN)/python -m tools.colab $(ARGS)

student: $(READY)  ## the notebooks without solutions, answers and outputs, in _build/student
	$(BIN)/python -m tools.student $(ARGS)

grade: $(READY)  ## ARGS="FOLDER --csv class.csv": judge submitted notebooks
	$(BIN)/python -m tools.grading $(ARGS)

run: $(READY)  ## run notebooks in place on MNIST, from clean kernels; ARGS="notebooks/03_..."
	$(BIN)/python -m tools.run $(ARGS)

refresh: $(READY)  ## bring everything stored up to date, on an idle machine; ARGS=--dry-run says what
	$(BIN)/python -m tools.refresh $(ARGS)

stamp: $(READY)  ## write badges, setup cells, times, tables into notebooks and pages
	$(BIN)/python -m tools.stamp

publish-address: $(READY)  ## REPO=https://github.com/owner/name: write the address everywhere
	@test -n "$(REPO)" || { echo "Say where: make publish-address REPO=https://github.com/owner/name"; exit 1; }
	$(BIN)/python -m tools.stamp "$(REPO)"

bench: $(READY)  ## on an idle machine: our training against textbook loops and the machine's peak
	$(BIN)/python -m tools.bench $(ARGS)

clean:  ## everything built but the student edition, in which somebody may have worked
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
	@test ! -d _build || find _build -mindepth 1 -maxdepth 1 ! -name student -exec rm -rf {} +
	find labkit notebooks tests tools \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): pyproject.toml $(BROKEN)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "The Energy Lab needs Python 3.11 or newer with venv; set PYTHON=..., found: $(PYTHON)"; exit 1; }
	@echo "Making the environment in .venv; this takes a minute or two."
	$(if $(BROKEN),"$(PYTHON)" -m venv --clear .venv)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[$(EXTRAS)]"  # half the time
	@$(WORKS) || { echo "The new environment does not work, see above; 'make clean' and try again."; exit 1; }
	@touch $(READY)
