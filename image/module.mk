# The guest image. What goes in from the checkout decides whether it is built again; packages and Node are locked.
IMAGE := $(BUILD)/image/manifest.json
IMAGE_SOURCES := $(filter-out %.test.ts,$(shell find image guest shared -name '*.ts' -o -name lock.json))

# The locked compilers and tools. Whatever they make names this file, so a renewed lock makes it again.
TOOLCHAIN := build/toolchain/packages.json

$(TOOLCHAIN): image/lock.json image/lock.ts image/toolchain.ts | node_modules/.stamp
	node image/make-toolchain.ts

$(IMAGE): $(IMAGE_SOURCES) $(TOOLCHAIN) $(BUILD)/init/init $(BUILD)/os/os.node node_modules/.stamp | gen
	node image/main.ts

.PHONY: image
image: $(IMAGE) ## build the guest image

.PHONY: image-lock
image-lock: node_modules/.stamp ## take the Debian package versions offered now into image/lock.json
	node image/update-lock.ts
