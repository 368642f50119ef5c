# Everything the project does is a target here; `make help` lists them. The scripts in tools/ do the work.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# make -C leaves PWD at the caller's folder: relative paths in APP, DIR and VENV are meant from there.
export CALLER_DIR := $(if $(findstring w,$(firstword -$(MAKEFLAGS))),$(PWD),$(CURDIR))

##@ Variables
export APP              ## make run: a script's path, package.module or module:callable (without it: the demo)
export DIR              ## make run: where APP's modules are (the folder of the script or its package, or the current one)
export VENV             ## make run: the virtual environment with APP's packages; its Python is the one built for
export PORT             ## make run: 8080
export WORKERS          ## make run: number of nginx workers (1)
export THREADS          ## make run: threads a worker for the application (4), or off
export PYTHON           ## the Python to build for, as python3.13 or a path (/usr/bin/python3)
export NGINX            ## the nginx to run (the one on PATH)
export NGINX_SOURCE_DIR ## its source, where it is not the distribution's nginx
export NGINX_BUILD_DIR  ## the build directory of that source, where it is not objs/ in it
export SOAK_MINUTES     ## make soak: how long (10)
export SOAK_RELOAD      ## make soak: seconds from reload to reload (27), 0: the same workers all the time
export SOAK_THREADS     ## make soak: off for applications on the event loop
export MODULE           ## make run, make install: a module that is built already, to be taken as it is
export DESTDIR          ## make install: a folder put in front of each path
export MATRIX           ## make matrix: Debian releases ("trixie sid")

##@ Targets
.PHONY: help run build test model soak matrix install uninstall clean

help: ## list targets and variables
	@awk 'BEGIN { FS = " *## *" } \
	    /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^(export )?[a-zA-Z_]+:? .*## / { sub(/^export /, ""); sub(/:.* ## /, " ## "); printf "  %-17s%s\n", $$1, $$2 }' \
	    $(firstword $(MAKEFILE_LIST))

run: ## serve the demo, or APP, in the foreground on http://127.0.0.1:PORT/, anew after each edit; Ctrl-C ends it
	@tools/run.sh

build: ## build the module in release mode; the last line is its path
	@tools/build.sh

test: ## formatting, clippy, unit and integration tests, with each Python that is there
	@tools/setup.sh python3-venv curl openssl valgrind shellcheck
	@tools/test.sh

model: ## run every interleaving of the threads that hand requests and answers over; a part of make test
	@tools/setup.sh
	@tools/model.sh

soak: ## minutes of mixed load with reloads, slow clients and clients that leave; fails on a lost request or growth
	@tools/setup.sh
	@tools/soak.sh

matrix: ## the tests with the nginx and Python of other Debian releases, in folders; needs root
	@tools/matrix.sh

install: ## build the module and put it where nginx looks for it, with a load_module snippet
	@tools/install.sh

uninstall: ## take both away again, unless nginx's configuration uses the module
	@tools/install.sh --remove

clean: ## remove all that was built, configured and installed below target/
	@tools/matrix.sh --remove
	rm -rf target
