RUST_ARCH_DEPENDS:=@(x86_64)

define Build/Compile
	cargo install --profile release --root $(PKG_INSTALL_DIR) --path $(PKG_BUILD_DIR) --locked
endef

# Is for packages that define no installation.
define RustBinPackage
endef
