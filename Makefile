# make score | verify-models | quick | test | extended | rooms | systems | images | check | audit | coverage | wheel | dist | docs | site | mini | baseline | benchmark | endurance
# Needs Python >= 3.11, make and git; Poetry is fetched into .poetry/, the environment into .venv/, and what only tests need into build/.

PYTHON ?= python3
# Tests start hundreds of processes, and each would compile all that it imports (torch alone: 2 s).
unexport PYTHONDONTWRITEBYTECODE
POETRY_PACKAGES := poetry==2.5.1 poetry-plugin-pypi-mirror==0.6.5
RELEASE_PACKAGES := twine==7.0.0 check-wheel-contents==0.6.3
RUN := .venv/bin/python
POETRY := .poetry/bin/poetry
# Poetry would install into an environment that happens to be active.
POETRY_ENV = env -u VIRTUAL_ENV -u CONDA_PREFIX POETRY_PYPI_MIRROR_URL="$$(.poetry/bin/python scripts/index_mirror.py)"

# How many tests run at once: more than cores, because many wait for servers and processes of their own. A file's tests stay together, and so do those that share a Spark session.
JOBS ?= 3
PYTEST = $(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Strictly: a broken link, a page that is not in the menu, or anything that would be loaded from another host fails.
SITE = NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

DATA ?= ../shared/data
# Freed memory is kept instead of given back, which costs training on a CPU half its speed; threads that wait, sleep.
TRAINING_ENV := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1 OMP_WAIT_POLICY=passive

.PHONY: score verify-models setup quick test extended rooms systems images check audit coverage lock wheel dist docs site mini baseline benchmark endurance tools recipes clean
.DELETE_ON_ERROR:

# Needs a network: downloads published models, 9 GB, and compares their scores with published figures.
verify-models: setup
	$(RUN) -m pytest tests/encoders/test_published.py -m network -rs -s

# What scoring needs: the package and ONNX Runtime.
score: .venv/scoring
	$(RUN) execute_text_image_similarity_csv.py

# What development needs: every extra, and the tools in pyproject.toml's group `dev`.
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

# What tests import is compiled once, and not by each of their processes at the same time.
.venv/compiled: .venv/everything
	$(RUN) -m pytest --collect-only -qqq
	touch $@

# The rooms alone, without Spark, Ray, a browser, other people's servers, and whatever takes seconds.
quick: setup
	$(PYTEST) --ignore tests/doors --ignore tests/system -m "not (slow or extended or spark or ray or browser or server)"

# What must pass before a change is merged. While the tests of systems wait for their processes, others compute.
test: JOBS = 4
test: .venv/compiled tools
	$(PYTEST) -m "not extended" $(TEST_OPTIONS)

# The rest, which would take .ci/run as long again: before a release, and every night.
extended: JOBS = 2
extended: .venv/compiled tools recipes
	$(PYTEST) -m extended $(TEST_OPTIONS)

rooms: setup tools
	$(PYTEST) --ignore tests/doors --ignore tests/system $(TEST_OPTIONS)

# Whole processes, clusters and recipes, no more at once than cores: each starts many processes, which must come up in time.
systems: JOBS = 2
systems: setup tools recipes
	$(PYTEST) tests/doors tests/system $(TEST_OPTIONS)

# Every image of deploy/ that needs no base from a registry, built and run as root, with its size. Those with torch take 20 GB of disk and half an hour.
images: IMAGES ?= cpu search models job lambda cuda job-torch ray
images: setup tools
	IMAGES="$(IMAGES)" $(RUN) -m pytest -s tests/system/test_images.py

check: setup
	$(RUN) -m ruff check .
	$(RUN) -m black --check --quiet .
	$(RUN) -m codespell_lib
	$(RUN) -m mypy
	$(RUN) -m pytest tests/test_architecture.py
	$(SITE)

# Needs a network: asks osv.dev, or OSV_URL, what is known of the locked versions and of the lowest ones that pyproject.toml admits.
audit: setup
	$(RUN) -m scripts.audit

# The fast tests alone, and not in .ci/run: being measured costs them a third more.
coverage: TEST_OPTIONS += -m "not (slow or extended)" --cov --cov-report=term-missing:skip-covered
coverage: rooms

lock: .poetry/installed
	$(POETRY_ENV) $(POETRY) lock

wheel: .poetry/installed
	$(POETRY) build --clean --format wheel

# What a release publishes, checked: the wheel that pip builds from the archive of the sources is ours to the last byte.
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

# What `make test` does a few times over, many times: each of these files names its variable where it reads it.
endurance: setup
	KILLS=100 TERMS=20 SOAK_ROWS=200000 RESTARTS=20 FILTERS=10000 FRAMES=1000 CAPTIONS=10000 HOSTILE_S=3600 ROUNDS=1000 MUTATIONS=20000 RESIZES=5000 LAYERS=12 $(RUN) -m pytest -s \
		tests/system/test_endurance.py tests/system/test_restarts.py tests/system/test_hostile_load.py tests/system/test_full_size.py tests/search/test_crash.py tests/search/stores/test_contract.py \
		tests/search/filters/test_sql.py tests/tables/test_frames.py tests/formats/test_formats.py tests/decode/test_corpus.py tests/resize/test_resize.py tests/encoders/test_token_files.py tests/export/test_kill.py tests/pipeline/test_feeders.py

# Airflow and Snowpark, whose pins do not go with ours: 580 MB. What they import is compiled then.
recipes: build/recipes/airflow/installed build/recipes/snowpark/installed

build/recipes/%/installed: deploy/%/requirements-test.txt
	$(PYTHON) -m venv build/recipes/$*
	build/recipes/$*/bin/python -m pip install --quiet --no-compile -r $<
	touch $@

# Programs of Debian's that tests start, and a root for images: 800 MB, no root needed. On other systems, install them your own way: buildah, chromium, curl, kubectl, nginx, prometheus, redis-server, shellcheck.
tools: build/tools/installed build/axe/axe.min.js build/triton/installed build/web/installed

build/tools/installed: scripts/fetch_tools.sh
	if command -v apt-get > /dev/null; then scripts/fetch_tools.sh build/tools; else mkdir -p build/tools; fi
	touch $@

# NVIDIA's inference server for the CPU, from PyPI: 360 MB.
build/triton/installed: scripts/fetch_triton.sh
	scripts/fetch_triton.sh build/triton
	touch $@

# What checks the pages' accessibility, from npm: 650 kB.
build/axe/axe.min.js: scripts/fetch_axe.sh
	if command -v npm > /dev/null; then scripts/fetch_axe.sh build/axe; else mkdir -p build/axe; fi

# transformers.js and ONNX Runtime for browsers, from npm: 28 MB.
build/web/installed: scripts/fetch_transformers_js.sh
	if command -v npm > /dev/null; then scripts/fetch_transformers_js.sh build/web; else mkdir -p build/web; fi
	touch $@

clean:
	rm -rf .venv .poetry dist build
