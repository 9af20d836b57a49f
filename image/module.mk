# The guest image. What goes in from the checkout decides whether it is built again; packages and Node are locked.
IMAGE := $(BUILD)/image/manifest.json
IMAGE_SOURCES := $(filter-out %.test.ts,$(shell find image guest shared -name '*.ts' -o -name lock.json))

$(IMAGE): $(IMAGE_SOURCES) $(BUILD)/init/init $(BUILD)/os/os.node node_modules/.stamp | gen
	node image/main.ts

.PHONY: image
image: $(IMAGE) ## build the guest image (installs binutils and erofs-utils when missing)

.PHONY: image-lock
image-lock: node_modules/.stamp ## take the Debian package versions offered now into image/lock.json
	node image/update-lock.ts
