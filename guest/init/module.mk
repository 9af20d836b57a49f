# Guest PID 1: one static binary.
INIT := $(BUILD)/init/init
INIT_SOURCES := $(sort $(wildcard guest/init/*.c))
# What a small static program of the guest is built with; bench/ uses it as well.
STATIC_CFLAGS := -static-pie -fPIE -Os -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -fstack-protector-strong \
  -D_FORTIFY_SOURCE=2 -ffunction-sections -fdata-sections -ffile-prefix-map=$(CURDIR)=. \
  -Wl,--gc-sections,-z,relro,-z,now,-z,noexecstack,--build-id=none -s

# By the image's own compiler and libc (image/toolchain.ts).
$(INIT): $(INIT_SOURCES) guest/init/init.h guest/init/module.mk build/toolchain/packages.json
	@mkdir -p $(@D)
	node image/tool.ts gcc-12 $(STATIC_CFLAGS) -o $@.tmp $(INIT_SOURCES)
	mv $@.tmp $@

# The same init whose exit pipe is full after 170 records.
$(INIT)-small-pipe: $(INIT_SOURCES) guest/init/init.h guest/init/module.mk | $(BUILD)/tools/cc
	@mkdir -p $(@D)
	cc $(STATIC_CFLAGS) -DEXIT_PIPE_BYTES=4096 -o $@ $(INIT_SOURCES)

$(BUILD)/init/orphans: test/support/orphans.c | $(BUILD)/tools/cc
	@mkdir -p $(@D)
	cc -O1 -Wall -Wextra -Werror -o $@ $<

.PHONY: init-test-tools
init-test-tools: $(INIT)-small-pipe $(BUILD)/init/orphans

.PHONY: init
init: $(INIT) ## build guest PID 1
