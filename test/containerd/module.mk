# containerd of other lines than the node's own, each in its newest release: a folder of test/containerd, whose go.mod pins it. They come
# through Go's module proxy, and whoever lacks the Go does without. Go asks once for each module, and an answer may get lost.
CONTAINERD_PACKAGE := github.com/containerd/containerd/v2/cmd/containerd

$(BUILD)/containerd/%: test/containerd/%/go.mod test/containerd/%/go.sum
	@mkdir -p $(@D)
	@cd test/containerd/$* && fetch() { CGO_ENABLED=0 GOFLAGS=-mod=readonly go list -deps $(CONTAINERD_PACKAGE) >/dev/null; } && \
	  { fetch || { sleep 10; fetch; } || { sleep 30; fetch; }; }
	cd test/containerd/$* && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -ldflags='-s -w' -o $(abspath $@) $(CONTAINERD_PACKAGE)

.PHONY: containerds
containerds: gen parts image node ## a pod's life under each other line of containerd (without Go, it is skipped)
	node tools/test.ts containerds
