# What the sandboxer runs besides TypeScript: the native addon, and what guards vhost-device-vsock against its peers. By the image's
# own compiler, so that it runs wherever a glibc is no older than Debian 12's.
VSOCK_GUARD := $(BUILD)/host/vsock-guard.so

$(VSOCK_GUARD): host/backends/microvm/vsock-guard.c shared/os/native/cc-flags host/module.mk build/toolchain/packages.json node_modules/.stamp
	@mkdir -p $(@D)
	node image/tool.ts gcc-12 @shared/os/native/cc-flags -Werror -ffile-prefix-map=$(CURDIR)=. -o $@.tmp $<
	mv $@.tmp $@

.PHONY: sandboxer
sandboxer: os-addon $(VSOCK_GUARD) ## build what the sandboxer runs besides TypeScript
