# Kubernetes' own node conformance suite, and agnhost, what its containers run, of the release that test/kubernetes/go.mod pins. agnhost's
# server of HTTPS has a certificate that lies in the suite's sources.
NODE_CONFORMANCE := $(addprefix $(BUILD)/kubernetes/,e2e_node.test agnhost localhost.crt localhost.key)
KUBERNETES_GO := cd test/kubernetes && CGO_ENABLED=0 GOFLAGS=-mod=readonly go

$(BUILD)/kubernetes/e2e_node.test: test/kubernetes/go.mod test/kubernetes/go.sum | kubernetes-modules
	$(KUBERNETES_GO) test -c -vet=off -trimpath -ldflags='-s -w' -o $(abspath $@) k8s.io/kubernetes/test/e2e_node

$(BUILD)/kubernetes/agnhost: test/kubernetes/go.mod test/kubernetes/go.sum | kubernetes-modules
	$(KUBERNETES_GO) build -trimpath -ldflags='-s -w' -o $(abspath $@) k8s.io/kubernetes/test/images/agnhost

$(BUILD)/kubernetes/localhost.%: test/kubernetes/go.mod | kubernetes-modules
	install -m 644 "$$($(KUBERNETES_GO) list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/porter/$(@F)" $@

.PHONY: node-conformance
node-conformance: gen parts image node conformance-programs $(KUBERNETES) $(NODE_CONFORMANCE) ## Kubernetes' node conformance suite against runc and us, and docs/node-conformance.md; FOCUS=PATTERN for a part, REST=1 for what has no result yet
	node test/node-conformance/main.ts $(if $(FOCUS),--focus '$(FOCUS)') $(if $(REST),--rest)
