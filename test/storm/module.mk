.PHONY: storm
storm: gen sandboxer container-tools image node ## random calls and faults on real pods: SEED=N, the first of them, SEEDS=N, STORMS=N, FAULT=NAME
	node test/storm/main.ts --seed $(or $(SEED),1) --seeds $(or $(SEEDS),1) --storms $(or $(STORMS),6) $(addprefix --fault ,$(FAULT))
