QT      = core network
CONFIG += console c++17
CONFIG -= app_bundle debug_and_release
DESTDIR = $$OUT_PWD/bin
