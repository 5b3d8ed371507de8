# What the Makefile of contrib/openwrt uses of OpenWrt's build system, so that it can be run without it:
# `make TOPDIR=…/tests/packages/openwrt OUT=…` leaves in OUT what each package would install.
INCLUDE_DIR:=$(TOPDIR)/include
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_CONF:=install -m0600
CP:=cp -fpR
