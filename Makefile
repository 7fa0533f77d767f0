# make run    a signer on a simulated HSM, http://127.0.0.1:6732
# make test   the tests, against the built wheel
# make lint   mypy and ruff
# make clean  remove what the others made

PYTHON ?= python3
VENV := .venv
BUILD := build
BIN := $(CURDIR)/$(VENV)/bin
export TEZIO_SIGNER_INTEROP ?= $(CURDIR)/.interop
SOURCES := $(shell find tezio_signer twisted -name '*.py' -o -name py.typed) setup.cfg pyproject.toml README.md LICENSE
WHEEL := $(BUILD)/wheel.stamp
INSTALLED := $(VENV)/installed.stamp

.PHONY: run test coverage-report lint format clean

run: $(INSTALLED)
	exec $(VENV)/bin/tezio-signer run --simulate --config config.yaml

# The tests run beside a copy of what they read, not in the checkout: there, Python
# would import the sources instead of the installed wheel. COVERAGE=1 counts branches.
test: $(INSTALLED) $(VENV)/test.stamp
	rm -rf $(BUILD)/run && mkdir -p $(BUILD)/run
	cp -r tests deploy config.yaml README.md setup.cfg $(BUILD)/run/
	cd $(BUILD)/run && $(BIN)/$(if $(COVERAGE),coverage run,python) -m twisted.trial $(TRIAL_FLAGS) tests

coverage-report:
	cd $(BUILD)/run && $(BIN)/coverage combine --quiet && $(BIN)/coverage report

lint: $(INSTALLED) $(VENV)/test.stamp $(VENV)/lint.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict

format: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Debian keeps ensurepip in a package of its own.
$(VENV)/bin/pip:
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || ./tools/install-debian-packages python3-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip

$(WHEEL): $(SOURCES) $(VENV)/bin/pip
	rm -rf $(BUILD)/wheel $(BUILD)/lib
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir $(BUILD)/wheel .
	rm -rf tezio_signer.egg-info $(BUILD)/lib $(BUILD)/bdist*
	touch $@

# The first `twistd` after an installation looks through all plugins; do it now.
$(INSTALLED): $(WHEEL)
	$(VENV)/bin/pip install --quiet --upgrade --upgrade-strategy only-if-needed $(BUILD)/wheel/*.whl
	$(VENV)/bin/pip install --quiet --force-reinstall --no-deps $(BUILD)/wheel/*.whl
	$(VENV)/bin/twistd --help > /dev/null
	touch $@

$(VENV)/test.stamp: $(INSTALLED) setup.cfg
	$(VENV)/bin/pip install --quiet "$$(ls $(BUILD)/wheel/*.whl)[test]"
	touch $@

$(VENV)/lint.stamp: $(INSTALLED) setup.cfg
	$(VENV)/bin/pip install --quiet "$$(ls $(BUILD)/wheel/*.whl)[lint]"
	touch $@

clean:
	rm -rf $(VENV) $(BUILD) .interop .mypy_cache .ruff_cache
