-include guest/init/module.mk

# The agent's own tests run it outside a VM, with the crun that goes into the image and a busybox for its containers.
.PHONY: agent-tools
agent-tools: node_modules/.stamp
	@node --input-type=module -e "await (await import('./image/apt.ts')).ensureInstalled(['crun', 'busybox-static'])"
