# Everything the project does is a target here; `make help` lists them. The scripts in tools/ do the work.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# make -C leaves PWD at the caller's directory: relative paths in APP, DIR and VENV are meant from there.
export CALLER_DIR := $(if $(findstring w,$(firstword -$(MAKEFLAGS))),$(PWD),$(CURDIR))

##@ Variables
export APP              ## make run: a script's path, package.module or module:callable (without it: the demo)
export DIR              ## make run: the directory of APP's modules (that of the script or its package, or the current one)
export VENV             ## make run: the virtual environment with APP's packages; the module is built for its Python
export PORT             ## make run: the port (8080)
export WORKERS          ## make run: number of nginx workers (1)
export THREADS          ## make run: threads a worker for the application (4), or off
export PYTHON           ## the Python to build for, as python3.13 or a path (/usr/bin/python3)
export NGINX            ## the nginx to run (the one on PATH)
export NGINX_SOURCE_DIR ## the source of that nginx, if it is not the distribution's
export NGINX_BUILD_DIR  ## the build directory of that source, if it is not objs/ in it
export SOAK_MINUTES     ## make soak: how long (10)
export SOAK_RELOAD      ## make soak: seconds between reloads (27), 0: keep the same workers
export SOAK_GROUPS      ## make soak: 1 kills processes of process groups, at random
export SOAK_STATUS      ## make soak: 1 compares the counters of wsgi_status_zone with those of the clients
export SOAK_THREADS     ## make soak: off runs applications on the event loop
export RECORD           ## make bench-instructions: not empty: record the figures in tests/instructions.json
export MODULE           ## make run, make install: a module that is already built
export DESTDIR          ## make install: a directory put in front of each path
export BENCH_ROUNDS     ## make bench, make bench-growth: rounds (5, and 2)
export BENCH_SECONDS    ## make bench, make bench-growth: seconds of a sample (1)
export BENCH_RETRIES    ## make bench: how often a sample is repeated that other processes disturb (2)
export BENCH_ONLY       ## make bench, make bench-growth: some workloads, servers or curves ("hello flask threads nginx loop")
export MATRIX           ## make matrix, deb, wheel, test-packages: Debian releases ("trixie sid"); matrix: also debug, nginx with memory checks

TEST_PACKAGES := python3-venv curl openssl valgrind shellcheck systemd iproute2
# They read the status page.
STATUS_PACKAGES := chromium chromium-driver prometheus

##@ Targets
.PHONY: help run build test test-all model soak bench bench-growth bench-instructions matrix test-packages
.PHONY: deb wheel install uninstall clean

help: ## list targets and variables
	@awk 'BEGIN { FS = " *## *" } \
	    /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^(export )?[a-zA-Z_-]+:? .*## / { sub(/^export /, ""); sub(/:.* ## /, " ## "); printf "  %-20s%s\n", $$1, $$2 }' \
	    $(firstword $(MAKEFILE_LIST))

run: ## serve the demo, or APP, in the foreground on http://127.0.0.1:PORT/, reloaded after each edit; Ctrl-C stops it
	@tools/run.sh

build: ## build the module in release mode; the last line is its path
	@tools/build.sh

test: ## formatting, clippy, models, unit and integration tests, with one Python; prints the time of each part
	@tools/setup.sh $(TEST_PACKAGES) $(STATUS_PACKAGES)
	@tools/test.sh

test-all: ## make test, then what depends on the version of Python with each other Python that is installed
	@tools/setup.sh $(TEST_PACKAGES) $(STATUS_PACKAGES)
	@tools/test.sh --all

model: ## run every interleaving of the threads that hand requests and responses over; a part of make test
	@tools/setup.sh
	@tools/model.sh

bench-instructions: ## count the instructions of a request, in all and in each part of the program
	@tools/setup.sh $(TEST_PACKAGES)
	@tools/bench_instructions.sh

soak: ## minutes of mixed load with reloads, slow clients and disconnects; fails if a request is lost or memory grows
	@tools/setup.sh
	@tools/soak.sh

bench: ## compare with other servers of WSGI applications, nginx and Python alone; rewrites BENCHMARKS.md, 20 minutes
	@tools/bench.sh

bench-growth: ## the cost as headers, bodies, connections, threads, applications and workers grow; 5 minutes
	@tools/bench.sh growth

matrix: ## the tests with the nginx and Python of other Debian releases, and with an nginx built to find errors; needs root
	@tools/matrix.sh

test-packages: ## test packages in fresh directories of the Debian releases in MATRIX, or of this one; needs root
	@tools/setup.sh $(TEST_PACKAGES) debootstrap
	@tools/test_packages.sh

wheel: ## build the Python package with the module and an nginx; the last line is its path
	@tools/wheel.sh

install: ## build the module and install it, with a load_module snippet, ngx-wsgi-ctl and ngx-wsgi-top
	@tools/install.sh

deb: ## build the Debian package for the release at hand, or for those of MATRIX; the last line is its path
	@tools/deb.sh

uninstall: ## remove all of it, unless nginx's configuration uses the module
	@tools/install.sh --remove

clean: ## remove target/, with all that was built, configured and installed there
	@tools/debian.sh --remove
	rm -rf target
