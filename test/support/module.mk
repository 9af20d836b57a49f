# Programs that tests put into containers.
$(BUILD)/test/tcp-server: test/support/tcp-server.c | $(CC_READY)
	@mkdir -p $(@D)
	cc -static -O1 -Wall -Wextra -Werror -o $@ $<

.PHONY: container-tools
container-tools: $(BUILD)/test/tcp-server

parts: container-tools
