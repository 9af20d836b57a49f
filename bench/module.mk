# What SPECIFICATION.md's numbers come from.
BENCH_FLOOR := $(BUILD)/bench/floor

$(BENCH_FLOOR): bench/vm/floor.c guest/init/module.mk | $(BUILD)/tools/cc
	@mkdir -p $(@D)
	cc $(STATIC_CFLAGS) -o $@ $<

.PHONY: bench
bench: deps gen sandboxer image node $(BENCH_FLOOR) ## benchmarks; BENCH=start runs one, KUASAR_BENCH_ROUNDS=N takes N samples
	@node bench/main.ts $(BENCH)
