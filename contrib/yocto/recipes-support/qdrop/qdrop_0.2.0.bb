SUMMARY = "Send files to qdropd and to Qt programs, with receipts"
SUMMARY:qdropd = "Receive files from qdrop and from Qt programs"
DESCRIPTION = "qdrop sends files and qdropd receives them, in the protocol of Qt \
programs that use QTcpSocket and QDataStream. Where both ends are qdrop's, the \
sender gets a receipt for each file."
SECTION = "network"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "\
    file://LICENSE-MIT;md5=ccba4e8ff2598150d56701f7ea915cdc \
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
"

# The source is the checkout that this layer is part of.
FILESEXTRAPATHS:prepend := "${THISDIR}/../../../..:"
SRC_URI = "\
    file://Cargo.toml;subdir=${BP} \
    file://Cargo.lock;subdir=${BP} \
    file://LICENSE-MIT;subdir=${BP} \
    file://LICENSE-APACHE;subdir=${BP} \
    file://contrib/systemd;subdir=${BP} \
    file://man;subdir=${BP} \
    file://src;subdir=${BP} \
"

inherit cargo systemd

# Not the library, which is a part of both programs.
CARGO_BUILD_FLAGS:append = " --bins"
# Symbols are split off when the packages are made.
export CARGO_PROFILE_RELEASE_STRIP = "none"

do_install:append() {
    for page in ${S}/man/*; do
        install -D -m 0644 $page ${D}${mandir}/man${page##*.}/${page##*/}
    done
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/contrib/systemd/* ${D}${systemd_system_unitdir}
}

PACKAGES =+ "qdropd"

FILES:qdropd = "${bindir}/qdropd ${systemd_system_unitdir}"

SYSTEMD_PACKAGES = "qdropd"
SYSTEMD_SERVICE:qdropd = "qdropd.service qdropd.socket"
SYSTEMD_AUTO_ENABLE:qdropd = "disable"
