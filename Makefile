# The two commands: `make demo` runs the course, `make test` passes every test. Both set the machine up first.
.PHONY: setup demo lab test bench check clean
bin := .venv/bin
export PATH := $(CURDIR)/$(bin):$(PATH)

setup:
	@scripts/setup.sh

demo: setup  ## the whole course, headless, on the local lab
	@$(bin)/labkit up
	@$(bin)/labkit run; code=$$?; $(bin)/labkit down; exit $$code

lab: setup  ## JupyterLab on the first notebook
	@$(bin)/labkit up
	@$(bin)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=notebooks \
	  --LabApp.default_url=/lab/tree/00_start_here.ipynb --LabApp.extension_manager=readonly

test:  ## every test, kernel and browser included
	@scripts/setup.sh test
	@$(bin)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup  ## style, types, layers, notebooks
	@$(bin)/ruff check labkit tests benchmarks
	@$(bin)/mypy
	@$(bin)/lint-imports
	@$(bin)/python -m labkit.course.lint notebooks

bench: setup  ## speed, each figure as a ratio to a baseline of the same run
	@$(bin)/python -m benchmarks

clean:  ## the lab, and all that set-up made here
	@if [ -x $(bin)/labkit ]; then $(bin)/labkit down; fi
	rm -rf build .venv results labkit.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
