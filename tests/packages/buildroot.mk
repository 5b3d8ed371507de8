# What package/qdrop/qdrop.mk uses of Buildroot, so that it can be run without it:
# `make -f buildroot.mk BR2_EXTERNAL_QDROP_PATH=… OUT=… [BR2_…=y]` builds into OUT/target.
INSTALL = install
TARGET_DIR = $(OUT)/target
BUILD_DIR = $(OUT)/build/qdrop-$(QDROP_VERSION)
QDROP_PKGDIR = $(BR2_EXTERNAL_QDROP_PATH)/package/qdrop

all:

define cargo-package
$$(BUILD_DIR)/.stamp_installed:
	mkdir -p $$(@D)
	rsync -au --exclude .git $$(QDROP_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS) $$(QDROP_SITE)/ $$(@D)
	cd $$(@D) && cargo install --offline --root $$(TARGET_DIR)/usr/ --bins --path ./ --force --locked
	$$(if $$(BR2_INIT_SYSTEMD),$$(QDROP_INSTALL_INIT_SYSTEMD),$$(QDROP_INSTALL_INIT_SYSV))
	$$(info users: $$(QDROP_USERS))
	cd $$(@D) && sha256sum $$(QDROP_LICENSE_FILES)
endef

include $(BR2_EXTERNAL_QDROP_PATH)/external.mk

all: $(BUILD_DIR)/.stamp_installed
