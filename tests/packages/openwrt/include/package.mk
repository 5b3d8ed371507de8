PKG_BUILD_DIR:=$(OUT)/build/$(PKG_NAME)-$(PKG_VERSION)
PKG_INSTALL_DIR:=$(PKG_BUILD_DIR)/ipkg-install

all:

$(PKG_BUILD_DIR)/.built: $(PKG_FILE_DEPENDS)
	$(Build/Prepare)
	$(Build/Compile)
	touch $@

define BuildPackage
$(eval $(Package/$(1)))
$(foreach field,TITLE SECTION CATEGORY DEPENDS,$(if $($(field)),,$(error $(1) has no $(field))))
$(if $(Package/$(1)/description),,$(error $(1) has no description))
all: $(1)
$(1): user:=$(USERID)
$(1): export CONFFILES:=$(Package/$(1)/conffiles)
$(1): $(PKG_BUILD_DIR)/.built
	$(call Package/$(1)/install,$(OUT)/$(1))
	for file in $$$$CONFFILES; do test -f "$(OUT)/$(1)$$$$file" || exit; done
	echo "$$@ $(PKG_VERSION)-r$(PKG_RELEASE) user=$$(user) conffiles=$$$$CONFFILES"
endef
