.PHONY: node
node: deps gen ## build and cache the test node: its root and images
	@node test/node/build.ts

.PHONY: node-shell
node-shell: node sandboxer image ## a shell in a node with containerd and the sandboxer running
	@node test/node/shell.ts
