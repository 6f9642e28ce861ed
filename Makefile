# make score | verify-models | quick | test | extended | rooms | systems | images | check | audit | coverage | wheel | dist | docs | site | mini | baseline | benchmark | endurance
# Needs Python >= 3.11, make and git; Poetry is installed into .poetry/, the environment into .venv/, and tools for tests into build/.

PYTHON ?= python3
# Tests start hundreds of processes, each of which would otherwise compile everything that it imports (torch alone takes 2 s).
unexport PYTHONDONTWRITEBYTECODE
POETRY_PACKAGES := poetry==2.5.1 poetry-plugin-pypi-mirror==0.6.5
RELEASE_PACKAGES := twine==7.0.0 check-wheel-contents==0.6.3
RUN := .venv/bin/python
POETRY := .poetry/bin/poetry
# Otherwise, Poetry would install into an environment that happens to be active.
POETRY_ENV = env -u VIRTUAL_ENV -u CONDA_PREFIX POETRY_PYPI_MIRROR_URL="$$(.poetry/bin/python scripts/index_mirror.py)"

# Number of tests that run at once: more than cores, because many wait for their own servers and processes. Tests of one file, or of one Spark session, stay together. Torch's waiting threads sleep instead of occupying the cores.
JOBS ?= 3
PYTEST = OMP_WAIT_POLICY=passive $(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Strict: a broken link, a page missing from the menu, or anything loaded from another host is an error.
SITE = NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

DATA ?= ../shared/data
# Keep freed memory, because returning it halves the speed of training on a CPU; let waiting threads sleep.
TRAINING_ENV := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1 OMP_WAIT_POLICY=passive

.PHONY: score verify-models setup quick test extended rooms systems images check style types architecture audit coverage lock wheel dist docs site mini baseline benchmark endurance tools recipes clean
.DELETE_ON_ERROR:

# Needs a network: downloads published models, 9 GB, and compares their scores with published figures.
verify-models: setup
	$(RUN) -m pytest tests/encoders/test_published.py -m network -rs -s

# Requirements of scoring: the package and ONNX Runtime.
score: .venv/scoring
	$(RUN) execute_text_image_similarity_csv.py

# Requirements of development: every extra, and the tools in pyproject.toml's group `dev`.
setup: .venv/everything

.poetry/installed:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .poetry
	.poetry/bin/python -m pip install --quiet $(POETRY_PACKAGES)
	touch $@

.venv/scoring: .poetry/installed poetry.lock pyproject.toml
	$(POETRY_ENV) $(POETRY) install --no-interaction --only main --extras onnx
	touch $@

.venv/everything: .venv/scoring
	$(POETRY_ENV) $(POETRY) install --no-interaction --all-extras
	touch $@

# Compile the tests' imports once, instead of in each of their processes at the same time.
.venv/compiled: .venv/everything
	$(RUN) -m pytest --collect-only -qqq
	touch $@

# Only the fast tests: no Spark, Ray, browser or third-party servers, and nothing that takes seconds.
quick: setup
	$(PYTEST) --ignore tests/doors --ignore tests/system -m "not (slow or extended or spark or ray or browser or server)"

# What must pass before a change is merged. While system tests wait for their processes, others compute.
test: JOBS = 4
test: .venv/compiled tools
	$(PYTEST) -m "not extended" $(TEST_OPTIONS)

# The other tests, run every night and before a release, because they would double the time of .ci/run.
extended: JOBS = 2
extended: .venv/compiled tools recipes
	$(PYTEST) -m extended $(TEST_OPTIONS)

rooms: setup tools
	$(PYTEST) --ignore tests/doors --ignore tests/system $(TEST_OPTIONS)

# Tests with whole processes, clusters and recipes, at most one per core, because each starts many processes that must be ready in time.
systems: JOBS = 2
systems: setup tools recipes
	$(PYTEST) tests/doors tests/system $(TEST_OPTIONS)

# Builds and runs, as root, every image of deploy/ that needs no base from a registry, and prints its size. Each of those with torch takes 13 to 23 minutes and, while it is built, up to 41 GB of disk.
images: IMAGES ?= cpu search models job lambda cuda job-torch ray
images: setup tools
	IMAGES="$(IMAGES)" $(RUN) -m pytest -s tests/system/test_images.py

# Its parts can run at the same time: `make --jobs 3 check`.
check: style types architecture site

style: setup
	$(RUN) -m ruff check .
	$(RUN) -m black --check --quiet .
	$(RUN) -m codespell_lib

types: setup
	$(RUN) -m mypy

architecture: setup
	$(RUN) -m pytest tests/test_architecture.py

# Needs a network: asks osv.dev, or OSV_URL, for known vulnerabilities of the locked versions and of the lowest versions that pyproject.toml allows.
audit: setup
	$(RUN) -m scripts.audit

# Only the fast tests, and not in .ci/run, because measuring coverage takes a third more time.
coverage: TEST_OPTIONS += -m "not (slow or extended)" --cov --cov-report=term-missing:skip-covered
coverage: rooms

lock: .poetry/installed
	$(POETRY_ENV) $(POETRY) lock

wheel: .poetry/installed
	$(POETRY) build --clean --format wheel

# Checks the files of a release: the wheel that pip builds from the source archive must be identical to ours.
dist: .poetry/installed build/release/installed
	$(POETRY) build --clean
	build/release/bin/python -m twine check --strict dist/*
	build/release/bin/check-wheel-contents dist/*.whl
	rm -rf build/release/wheel
	build/release/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/release/wheel dist/*.tar.gz
	cmp build/release/wheel/*.whl dist/*.whl

build/release/installed:
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet $(RELEASE_PACKAGES)
	touch $@

docs: setup
	$(RUN) -m scripts.document_options
	$(RUN) -m scripts.memory_sum
	$(RUN) -m scripts.run_notebook

# The documentation as a site, in build/site.
site: setup
	$(SITE)

mini: setup
	$(TRAINING_ENV) $(RUN) -m scripts.train_mini $(DATA)
	$(RUN) -m scripts.export_mini
	$(RUN) -m text_image_similarity evaluate $(DATA)/flickr8k --split validation --model mini --calibrate text_image_similarity/weights/mini

baseline: setup
	$(TRAINING_ENV) $(RUN) -m text_image_similarity train $(DATA)/flickr8k build/baseline --epochs 7 --batch-size 64 \
		--image-tower mobilenet_v2 --image-weights $(DATA)/mobilenet_v2_imagenet.safetensors

benchmark: setup
	$(POETRY_ENV) $(POETRY) install --no-interaction --all-extras --with peers
	$(RUN) -m benchmarks --data $(DATA)

# Repeats many times what `make test` does a few times; each of these files documents its variable.
endurance: setup
	KILLS=100 TERMS=20 SOAK_ROWS=200000 RESTARTS=20 FILTERS=10000 FRAMES=1000 CAPTIONS=10000 HOSTILE_S=3600 ROUNDS=1000 MUTATIONS=20000 RESIZES=5000 LAYERS=12 $(RUN) -m pytest -s \
		tests/system/test_endurance.py tests/system/test_restarts.py tests/system/test_hostile_load.py tests/system/test_full_size.py tests/search/test_crash.py tests/search/stores/test_contract.py \
		tests/search/filters/test_sql.py tests/tables/test_frames.py tests/formats/test_formats.py tests/decode/test_corpus.py tests/resize/test_resize.py tests/encoders/test_token_files.py tests/export/test_kill.py tests/pipeline/test_feeders.py

# Airflow and Snowpark, whose pinned versions conflict with ours: 580 MB. pip compiles nothing, because Python compiles what tests import.
recipes: build/recipes/airflow/installed build/recipes/snowpark/installed

build/recipes/%/installed: deploy/%/requirements-test.txt
	$(PYTHON) -m venv build/recipes/$*
	build/recipes/$*/bin/python -m pip install --quiet --no-compile -r $<
	touch $@

# Debian programs that tests start, and a root file system for images: 800 MB; root rights are not needed. On other systems, install these yourself: buildah, chromium, curl, kubectl, nginx, prometheus, redis-server, shellcheck.
tools: build/tools/installed build/axe/axe.min.js build/triton/installed build/web/installed

build/tools/installed: scripts/fetch_tools.sh
	if command -v apt-get > /dev/null; then scripts/fetch_tools.sh build/tools; else mkdir -p build/tools; fi
	touch $@

# NVIDIA's inference server for the CPU, from PyPI: 360 MB.
build/triton/installed: scripts/fetch_triton.sh
	scripts/fetch_triton.sh build/triton
	touch $@

# The accessibility checker for the pages, from npm: 650 kB.
build/axe/axe.min.js: scripts/fetch_axe.sh
	if command -v npm > /dev/null; then scripts/fetch_axe.sh build/axe; else mkdir -p build/axe; fi

# transformers.js and ONNX Runtime for browsers, from npm: 28 MB.
build/web/installed: scripts/fetch_transformers_js.sh
	if command -v npm > /dev/null; then scripts/fetch_transformers_js.sh build/web; else mkdir -p build/web; fi
	touch $@

clean:
	rm -rf .venv .poetry dist build
