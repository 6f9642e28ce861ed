# make setup | score | test | check | coverage | wheel | docs | diagram | mini | baseline | benchmark | endurance | recipes | tools
# Needs Python >= 3.11, make and git; Poetry is fetched into .poetry/ and the environment into .venv/.

PYTHON ?= python3
POETRY_PACKAGES := poetry==2.5.1 poetry-plugin-pypi-mirror==0.6.5
RUN := .venv/bin/python
POETRY := .poetry/bin/poetry
# Poetry would install into an environment that happens to be active.
POETRY_ENV = env -u VIRTUAL_ENV -u CONDA_PREFIX POETRY_PYPI_MIRROR_URL="$$(.poetry/bin/python scripts/index_mirror.py)"

DATA ?= ../shared/data
# Freed memory is kept instead of given back, which costs training on a CPU half its speed; threads that wait, sleep.
TRAINING_ENV := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1 OMP_WAIT_POLICY=passive

.PHONY: setup score test check coverage lock wheel docs diagram mini baseline benchmark endurance recipes tools clean
.DELETE_ON_ERROR:

setup: .venv/installed

.poetry/installed:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .poetry
	.poetry/bin/python -m pip install --quiet $(POETRY_PACKAGES)
	touch $@

.venv/installed: .poetry/installed poetry.lock pyproject.toml
	$(POETRY_ENV) $(POETRY) install --no-interaction --all-extras
	touch $@

score: setup
	$(RUN) execute_text_image_similarity_csv.py

test: setup
	$(RUN) -m pytest

check: setup
	$(RUN) -m ruff check .
	$(RUN) -m black --check --quiet .
	$(RUN) -m codespell_lib
	$(RUN) -m mypy
	$(RUN) -m pytest tests/test_architecture.py

coverage: setup
	$(RUN) -m pytest --cov --cov-report=term-missing

lock: .poetry/installed
	$(POETRY_ENV) $(POETRY) lock

wheel: setup
	$(POETRY) build --clean --format wheel

docs: setup
	$(RUN) -m scripts.document_options
	$(RUN) -m scripts.run_notebook

diagram:
	dot -Tsvg docs/data_flow.dot -o docs/data_flow.svg

mini: setup
	$(TRAINING_ENV) $(RUN) scripts/train_mini.py $(DATA)
	$(RUN) -m text_image_similarity evaluate $(DATA)/flickr8k --split validation --model mini --calibrate text_image_similarity/weights/mini

baseline: setup
	$(TRAINING_ENV) $(RUN) -m text_image_similarity train $(DATA)/flickr8k build/baseline --epochs 7 --batch-size 64 \
		--image-tower mobilenet_v2 --image-weights $(DATA)/mobilenet_v2_imagenet.safetensors

benchmark: setup
	$(POETRY_ENV) $(POETRY) install --no-interaction --all-extras --with peers
	$(RUN) -m benchmarks --data $(DATA)

endurance: setup
	KILLS=100 TERMS=20 SOAK_ROWS=200000 RESTARTS=20 $(RUN) -m pytest -s tests/system/test_endurance.py tests/system/test_restarts.py

# Airflow and Snowpark, whose pins do not go with ours, for tests/system/test_recipes.py: 580 MB.
recipes: build/recipes/airflow/installed build/recipes/snowpark/installed

build/recipes/%/installed: deploy/%/requirements-test.txt
	$(PYTHON) -m venv build/recipes/$*
	build/recipes/$*/bin/python -m pip install --quiet -r $<
	touch $@

# Debian's Prometheus and nginx, for tests/service/test_metrics.py and tests/system/test_deploy.py: 20 MB, no root needed.
tools: build/tools/installed

build/tools/installed:
	mkdir -p build/tools/packages
	cd build/tools/packages && apt-get download prometheus nginx
	for package in build/tools/packages/*.deb; do dpkg -x $$package build/tools; done
	rm -r build/tools/packages
	touch $@

clean:
	rm -rf .venv .poetry dist build
