# A kubelet, an API server and kubectl, of one release, and the etcd they were made with: test/kubernetes/go.mod pins them. They come through
# Go's module proxy, and whoever lacks the Go does without. Go asks once for each module, and an answer may get lost.
KUBERNETES := $(addprefix $(BUILD)/kubernetes/,kubelet kube-apiserver kubectl etcd)
KUBERNETES_VERSION = $(shell sed -n 's|^.k8s.io/kubernetes \(v[^ ]*\).*|\1|p' test/kubernetes/go.mod)

.PHONY: kubernetes-modules
kubernetes-modules:
	@mkdir -p $(BUILD)/kubernetes
	@cd test/kubernetes && { go mod download || { sleep 10; go mod download; } || { sleep 30; go mod download; }; }

$(KUBERNETES): $(BUILD)/kubernetes/%: test/kubernetes/go.mod test/kubernetes/go.sum | kubernetes-modules
	cd test/kubernetes && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath \
	  -ldflags='-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION)' -o $(abspath $@) \
	  $(if $(filter etcd,$*),go.etcd.io/etcd/server/v3,k8s.io/kubernetes/cmd/$*)

.PHONY: kubernetes-programs
kubernetes-programs: deps
	@if lack=$$(node tools/go.ts test/kubernetes 2>&1); then $(MAKE) --no-print-directory $(KUBERNETES); else echo "no Kubernetes: $$lack"; fi

.PHONY: kubernetes
kubernetes: gen parts image node kubernetes-programs ## pods by a kubelet, an API server and kubectl (without Go, it is skipped)
	node tools/test.ts kubernetes
