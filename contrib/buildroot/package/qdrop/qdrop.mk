################################################################################
#
# qdrop
#
################################################################################

QDROP_VERSION = 0.2.0
# The checkout that this tree is part of, without what it was built to.
QDROP_SITE = $(BR2_EXTERNAL_QDROP_PATH)/../..
QDROP_SITE_METHOD = local
QDROP_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude target
QDROP_LICENSE = MIT or Apache-2.0
QDROP_LICENSE_FILES = LICENSE-MIT LICENSE-APACHE

ifeq ($(BR2_PACKAGE_QDROP_SERVICE),y)
define QDROP_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(QDROP_PKGDIR)/S80qdropd \
		$(TARGET_DIR)/etc/init.d/S80qdropd
endef

define QDROP_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/contrib/systemd/qdropd.service \
		$(TARGET_DIR)/usr/lib/systemd/system/qdropd.service
endef

# The unit has a user of its own, who exists only while it runs.
ifneq ($(BR2_INIT_SYSTEMD),y)
define QDROP_USERS
	qdropd -1 qdropd -1 * /var/lib/qdropd - - qdropd
endef
endif
endif

$(eval $(cargo-package))
