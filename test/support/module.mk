# Programs that tests put into containers or run beside a node's: no library of the machine's is there.
CONTAINER_TOOLS := $(addprefix $(BUILD)/test/,debugger huge-pages one-directory one-file tap-wire tcp-server)

$(CONTAINER_TOOLS): $(BUILD)/test/%: test/support/%.c | $(CC_READY)
	@mkdir -p $(@D)
	cc -static -O1 -D_GNU_SOURCE -Wall -Wextra -Werror -o $@ $<

.PHONY: container-tools
container-tools: $(CONTAINER_TOOLS)

parts: container-tools
