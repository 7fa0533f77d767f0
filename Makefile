# make run          a signer on a simulated HSM, http://127.0.0.1:6732; CONFIG= names another configuration
# make test         the tests, against the built wheel
# make test-lowest  most of them, with the lowest versions of all that setup.cfg requires
# make lint         ruff, mypy and the floors (import-linter)
# make page         docs/configuration.md and docs/policy-examples.md anew, when a setting or the table has changed
# make mutants      the tests, against changed code; CHANGED=main: only lines changed since that
# make clean        remove what the others made

PYTHON ?= python3
CONFIG ?= config.yaml
VENV := .venv
BUILD := build
BIN := $(CURDIR)/$(VENV)/bin
LOWEST := $(BUILD)/lowest
# Most tests wait for processes: three at a time keep two processors busy. Branches are counted in
# processes of one job each; so there are two of them, with a half of the tests each.
TRIAL_FLAGS ?= $(if $(COVERAGE),,--jobs 3)
WAITING_TESTS := tests.campaigns tests.interop
OTHER_TESTS := $(filter-out $(WAITING_TESTS),$(sort $(subst /,.,$(patsubst %/__init__.py,%,$(wildcard tests/*/__init__.py)) $(basename $(wildcard tests/test_*.py)))))
export TEZIO_SIGNER_INTEROP ?= $(CURDIR)/.interop
SOURCES := $(shell find tezio_signer twisted -name '*.py' -o -name py.typed) setup.cfg pyproject.toml README.md LICENSE
WHEEL := $(BUILD)/wheel.stamp
INSTALLED := $(VENV)/installed.stamp
# What the tests read, and those of them that `make test-lowest` runs.
DOCUMENTS := $(wildcard *.md) docs LICENSE config.yaml pyproject.toml .pre-commit-config.yaml .ci
TEST_FILES := Makefile tests tools deploy setup.cfg $(DOCUMENTS)
QUICK_TESTS = $(basename $(subst /,.,$(filter-out tests/interop/% tests/campaigns/%,$(shell find tests -name 'test_*.py'))))

# A virtual environment has absolute paths in it, and a link to its Python: when the
# checkout has moved, or the Python is another one by now, it is made anew.
MADE_FOR := $(CURDIR) $(shell $(PYTHON) -c 'import sys; print(sys.executable, *sys.version_info[:2])' 2> /dev/null)
ifneq ($(shell cat $(VENV)/made-for 2> /dev/null),$(MADE_FOR))
$(VENV)/made-for: FORCE
endif

.PHONY: run test waiting-tests other-tests test-lowest coverage-report lint format page mutants clean FORCE

run: $(INSTALLED)
	exec $(VENV)/bin/tezio-signer run --simulate --config $(CONFIG)

# The tests run beside a copy of what they read, not in the checkout: there, Python
# would import the sources instead of the installed wheel. COVERAGE=1 counts branches.
test: $(INSTALLED) $(VENV)/test.stamp
	rm -rf $(BUILD)/run && mkdir -p $(BUILD)/run
	cp -r $(TEST_FILES) $(BUILD)/run/
	$(if $(COVERAGE),+$(MAKE) --no-print-directory --jobs 2 --output-sync waiting-tests other-tests,cd $(BUILD)/run && "$(BIN)"/python -m twisted.trial $(TRIAL_FLAGS) tests)

waiting-tests other-tests:
	cd $(BUILD)/run && "$(BIN)"/coverage run -m twisted.trial --temp-directory=_trial_$@ $(TRIAL_FLAGS) $(if $(filter waiting%,$@),$(WAITING_TESTS),$(OTHER_TESTS))

# Without other people's software and without campaigns: what a version breaks, it breaks here.
test-lowest: $(WHEEL)
	rm -rf $(LOWEST) && mkdir -p $(LOWEST)/run
	./tools/make-environment $(PYTHON) $(LOWEST)/venv
	./tools/lowest-requirements > $(LOWEST)/requirements.txt
	$(LOWEST)/venv/bin/pip install --quiet -r $(LOWEST)/requirements.txt
	$(LOWEST)/venv/bin/pip install --quiet --no-deps $(BUILD)/wheel/*.whl
	$(LOWEST)/venv/bin/pip check
	$(LOWEST)/venv/bin/twistd --help > /dev/null
	cp -r $(TEST_FILES) $(LOWEST)/run/
	cd $(LOWEST)/run && ../venv/bin/python -m twisted.trial $(or $(TRIAL_FLAGS),--jobs 2) $(QUICK_TESTS)

coverage-report:
	cd $(BUILD)/run && "$(BIN)"/coverage combine --quiet && "$(BIN)"/coverage report

lint: $(INSTALLED) $(VENV)/test.stamp $(VENV)/lint.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict
	$(VENV)/bin/lint-imports
	cmp config.yaml tests/data/config.yaml # the sample, and what is tested of it

format: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

page: $(INSTALLED)
	$(VENV)/bin/python -m tezio_signer.config.page > docs/configuration.md
	$(VENV)/bin/python -m tests.support.policytable > docs/policy-examples.md

# Changes single places of the sources in the checkout, and runs the tests on them.
mutants: $(VENV)/test.stamp $(VENV)/mutation.stamp
	"$(BIN)"/python -m tests.campaigns.mutants $(if $(CHANGED),--changed $(CHANGED))

$(VENV)/made-for:
	@./tools/make-environment $(PYTHON) $(VENV)
	@echo "$(MADE_FOR)" > $@

$(WHEEL): $(SOURCES) $(VENV)/made-for
	@echo "Building the wheel of Tezio Signer"
	rm -rf $(BUILD)/wheel $(BUILD)/lib
	$(VENV)/bin/pip wheel --quiet --no-deps --wheel-dir $(BUILD)/wheel .
	rm -rf tezio_signer.egg-info $(BUILD)/lib $(BUILD)/bdist*
	touch $@

# The first `twistd` after an installation looks through all plugins; do it now.
$(INSTALLED): $(WHEEL)
	@echo "Installing it and the libraries that it needs into $(VENV)"
	$(VENV)/bin/pip install --upgrade --upgrade-strategy only-if-needed $(BUILD)/wheel/*.whl
	$(VENV)/bin/pip install --quiet --force-reinstall --no-deps $(BUILD)/wheel/*.whl
	$(VENV)/bin/twistd --help > /dev/null
	@echo "Tezio Signer is installed in $(VENV)"
	touch $@

$(VENV)/test.stamp: $(INSTALLED) setup.cfg
	$(VENV)/bin/pip install --quiet "$$(ls $(BUILD)/wheel/*.whl)[test]"
	touch $@

$(VENV)/lint.stamp: $(INSTALLED) setup.cfg
	$(VENV)/bin/pip install --quiet "$$(ls $(BUILD)/wheel/*.whl)[lint]"
	touch $@

$(VENV)/mutation.stamp: $(INSTALLED) setup.cfg
	$(VENV)/bin/pip install --quiet "$$(ls $(BUILD)/wheel/*.whl)[mutation]"
	touch $@

clean:
	rm -rf $(VENV) $(BUILD) .interop .mypy_cache .ruff_cache
