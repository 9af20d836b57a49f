-include shared/os/module.mk

# The parts of shared/ that stand alone, as npm packages: build/packages/NAME-VERSION.tgz.
.PHONY: packages
packages: deps vsock-addons ## pack ttrpc-ts and node-vsock as they would be published (installs a cross compiler when missing)
	@node tools/packages.ts $(BUILD)/packages
