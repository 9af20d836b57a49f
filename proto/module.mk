# shared/rpc/gen: types and tables made of proto/.
RPC_GEN := shared/rpc/gen/.stamp

$(RPC_GEN): node_modules/.stamp $(shell find proto -name '*.proto') \
		$(wildcard tools/gen-*.ts) tools/guest-descriptor.ts tools/protobuf.ts shared/rpc/definition.ts shared/rpc/load.ts shared/rpc/options.ts
	node tools/gen-rpc.ts shared/rpc/gen

.PHONY: gen
gen: $(RPC_GEN) ## the typed contract, from proto/ into shared/rpc/gen
