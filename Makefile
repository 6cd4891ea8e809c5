PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

LABEL := .venv-label
LABEL_INSTALLED := $(LABEL)/.installed
PORT ?= 8000

DEPLOY := .venv-deploy
DEPLOY_INSTALLED := $(DEPLOY)/.installed

NEWEST := .venv-newest
NEWEST_INSTALLED := $(NEWEST)/.installed

# The versions that we develop with; `make CONSTRAINTS=file` installs others.
CONSTRAINTS ?= constraints.txt
INSTALL := -m pip install -q --upgrade-strategy only-if-needed
# `make HASHED=yes` first installs the very archives of .ci/lock.py (Python 3.11, Linux x86-64, the
# CPU build of torch, which pip must be told to find: PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).
HASHED ?=

.PHONY: help assets demo experiments results-page bench bench-all bench-gpu bench-peers performance-page
.PHONY: docs docs-pictures test test-all test-newest lint label label-install label-test clean
.PHONY: soak fuzz dist deploy-install deploy-test pacs-test

help:
	@echo 'make lint              ruff, mypy and codespell'
	@echo 'make assets            scripts of the report from npm, before a wheel is built'
	@echo 'make test              tests, but for those that take minutes'
	@echo 'make test-all          all tests'
	@echo 'make test-newest       tests with the newest torch, in an environment of its own'
	@echo 'make demo              bundles on images made here, and on DATA=folder; results in demo/'
	@echo 'make experiments       experiments at PROFILE=quick, standard or full; results in results/'
	@echo 'make results-page      docs/results.md, tables and plots from docs/results/, docs/trainings/'
	@echo 'make bench             benchmarks, 20 minutes; also bench-all, bench-gpu, bench-peers'
	@echo 'make soak              many images and random networks, 30 minutes; make fuzz: damaged files, 20'
	@echo 'make dist              wheel and sdist, built twice and compared, in dist/'
	@echo 'make performance-page  docs/performance.md from docs/performance/'
	@echo 'make docs              the documentation in site/; also docs-pictures, the pictures of its pages'
	@echo 'make label             a MONAI Label server at PORT=8000; also label-install, label-test'
	@echo 'make deploy-test       tests in the MONAI Deploy App SDK; also deploy-install'
	@echo 'make pacs-test         MONAI Label on a real PACS: apt-get install orthanc orthanc-dicomweb'
	@echo 'make clean             remove environments and results'

# Everything is installed into .venv.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(if $(HASHED),$(BIN)/python -m pip install -q --no-deps --require-hashes -r .ci/requirements-hashed.txt)
	$(BIN)/python $(INSTALL) -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

# What the report shows volumes and long tables with, and what its tests check it with. Installed
# from npm by name, copied into the package, never committed; without it reports are plainer.
ASSETS := monai_ifim/report/assets
NPM := build/npm/node_modules
assets:
	mkdir -p build/npm
	cd build/npm && npm install --silent --no-audit --no-fund --ignore-scripts --no-save --prefix . \
		@niivue/niivue@0.69.0 tabulator-tables@6.3.1 axe-core@4.10.3
	cp $(NPM)/@niivue/niivue/dist/niivue.umd.js $(ASSETS)/niivue.js
	cp $(NPM)/tabulator-tables/dist/js/tabulator.min.js $(ASSETS)/tabulator.js
	cp $(NPM)/tabulator-tables/dist/css/tabulator.min.css $(ASSETS)/tabulator.css
	cp $(NPM)/tabulator-tables/LICENSE $(ASSETS)/tabulator.LICENSE.txt

demo: $(INSTALLED)
	$(BIN)/python -m monai_ifim demo --output demo $(if $(DATA),--data $(DATA))

PROFILE ?= quick

experiments: $(INSTALLED)
	$(BIN)/python -m monai_ifim experiment configs/experiments --profile $(PROFILE) \
		--output results $(if $(DATA),--data $(DATA))

# The committed results; draws the plots anew, too.
results-page: $(INSTALLED)
	$(BIN)/python -m monai_ifim results-page docs/results docs/trainings docs/results.md

# Other tools, to compare with. The last two ask for torchvision, whose wheel wants a CUDA build of
# torch; what is used of them does not import it.
PEERS := $(VENV)/.peers
$(PEERS): $(INSTALLED)
	$(BIN)/python $(INSTALL) -c $(CONSTRAINTS) -e '.[benchmarks]'
	$(BIN)/python -m pip install -q --no-deps -c $(CONSTRAINTS) curvlinops-for-pytorch nngeometry
	touch $@

bench-peers: $(PEERS)

# docs/performance/*.json and docs/performance.md; 19 minutes on two quiet cores, 39 with all.
bench: $(PEERS)
	$(BIN)/python -m benchmarks

bench-all: $(PEERS)
	$(BIN)/python -m benchmarks --all

bench-gpu: $(PEERS)
	$(BIN)/python -m benchmarks --device cuda

performance-page: $(INSTALLED)
	$(BIN)/python -m benchmarks.page

# Warnings are errors; nothing is asked of the network, here or by the pages.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-pictures: $(INSTALLED)
	$(BIN)/python docs/hooks/pictures.py

# docs/reliability/*.json and docs/reliability.md.
soak: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak
	OMP_NUM_THREADS=1 RELIABILITY=docs/reliability $(BIN)/python -m pytest -m slow -s tests/core/test_random_networks.py
	$(BIN)/python -m benchmarks.reliability_page

fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.reliability_page

# The same commit gives the same bytes, whenever and wherever it is built.
dist: $(INSTALLED)
	$(BIN)/python -m benchmarks.dist dist

# Two workers with one thread each: most of the time goes into starting bundle runs.
PYTEST := -m pytest -n 2 --dist loadfile

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

test-all: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m ''

# What a plain `pip install torch` brings; on Linux a CUDA build of several gigabytes.
constraints-newest.txt: constraints.txt
	grep -v '^torch==' $< > $@

$(NEWEST_INSTALLED): pyproject.toml constraints-newest.txt
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(INSTALL) -c constraints-newest.txt -e '.[test]'
	touch $@

test-newest: $(NEWEST_INSTALLED)
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python $(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# MONAI Label in an environment of its own: it pins half of what it needs (docs/monai_label.md).
# pydicom-seg takes a name from a module that pydicom 3 has made private; pydicom.uid has it too.
$(LABEL_INSTALLED): pyproject.toml constraints-label.txt
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install -q -c constraints-label.txt -e '.[label]' pytest pytest-timeout playwright
	$(LABEL)/bin/python -m pip install -q --no-deps monailabel==0.8.5 pydicom-seg==0.4.1
	sed -i 's/from pydicom._storage_sopclass_uids import/from pydicom.uid import/' \
		$(LABEL)/lib/python3*/site-packages/pydicom_seg/*.py
	touch $@

label-install: $(LABEL_INSTALLED)

# A server with the two demonstration bundles, for this machine alone.
label: $(LABEL_INSTALLED)
	test -d label/app || $(LABEL)/bin/python -m monai_ifim label-app label/app \
		--bundle bundles/ifim_signal_2d --bundle bundles/ifim_signal_3d
	test -d label/studies || { \
		$(LABEL)/bin/python -m monai_ifim signal-images 2d label/2d --count 6 && \
		$(LABEL)/bin/python -m monai_ifim signal-images 3d label/3d --count 6 && \
		mkdir label/studies && for d in 2d 3d; do for f in label/$$d/*.nii.gz; do \
			mv $$f label/studies/$${d}_$$(basename $$f); done; done; }
	$(LABEL)/bin/python -m monai_ifim label-server label/app label/studies --port $(PORT)

label-test: $(LABEL_INSTALLED)
	OMP_NUM_THREADS=1 $(LABEL)/bin/python -m pytest --ignore tests/label/pacs tests/label monai_ifim/label

# With a real Orthanc and, where there is Chromium, OHIF; PACS_SECONDS=3600 for an hour of clients.
pacs-test: $(LABEL_INSTALLED)
	OMP_NUM_THREADS=1 $(LABEL)/bin/python -m pytest -s -m '' tests/label/pacs

# The MONAI Deploy App SDK in an environment of its own: it brings Holoscan, and CUDA's Python packages.
$(DEPLOY_INSTALLED): pyproject.toml constraints.txt constraints-deploy.txt
	$(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install -q -c constraints.txt -c constraints-deploy.txt -e '.[deploy]' pytest pytest-timeout
	touch $@

deploy-install: $(DEPLOY_INSTALLED)

deploy-test: $(DEPLOY_INSTALLED)
	OMP_NUM_THREADS=1 $(DEPLOY)/bin/python -m pytest -m '' tests/deploy monai_ifim/deploy

clean:
	rm -rf $(VENV) $(LABEL) $(DEPLOY) $(NEWEST) constraints-newest.txt constraints-torch.txt label demo results site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
