# Programs that tests put into containers.
CONTAINER_TOOLS := $(BUILD)/test/tcp-server $(BUILD)/test/one-directory

$(CONTAINER_TOOLS): $(BUILD)/test/%: test/support/%.c | $(CC_READY)
	@mkdir -p $(@D)
	cc -static -O1 -Wall -Wextra -Werror -o $@ $<

.PHONY: container-tools
container-tools: $(CONTAINER_TOOLS)

parts: container-tools
