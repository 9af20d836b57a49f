# critest, Kubernetes's own suite for container runtimes. `make test` runs it against microVMs, `make conformance` against runc too.
CONFORMANCE := $(BUILD)/conformance

$(CONFORMANCE)/programs/%: test/conformance/programs/%.c | $(BUILD)/tools/cc
	@mkdir -p $(@D)
	cc $(STATIC_CFLAGS) -o $@ $<

# Go, which the product itself does without. The one of Debian 12 is too old, so nobody installs it here.
.PHONY: go
go: deps
	@node tools/go.ts test/conformance

# Go asks its module proxy once for each module; one of some eighty answers may get lost.
.PHONY: conformance-modules
conformance-modules:
	@cd test/conformance && { go mod download || { sleep 10; go mod download; } || { sleep 30; go mod download; }; }

# crictl, of the same module at the same version, for test/integration/crictl.test.ts: whoever lacks the Go goes without.
$(BUILD)/test/crictl: test/conformance/go.mod test/conformance/go.sum | conformance-modules
	@mkdir -p $(@D)
	cd test/conformance && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -ldflags='-s -w' -o $(abspath $@) sigs.k8s.io/cri-tools/cmd/crictl

.PHONY: crictl
crictl: deps
	@if lack=$$(node tools/go.ts test/conformance 2>&1); then $(MAKE) --no-print-directory $(BUILD)/test/crictl; else echo "no crictl: $$lack"; fi

.PHONY: conformance-programs
conformance-programs: $(CONFORMANCE)/programs/sh $(CONFORMANCE)/programs/nonewprivs $(CONFORMANCE)/programs/webserver

.PHONY: conformance
conformance: go gen parts image node conformance-programs ## critest against runc and us, and docs/conformance.md; RUNS=N times in a row
	node test/conformance/main.ts --runs $(or $(RUNS),1)
