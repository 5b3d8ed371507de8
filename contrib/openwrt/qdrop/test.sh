#!/bin/sh
# $1 is the name of the package and $2 its version.
case "$1" in
qdrop | qdropd) "$1" --version | grep -Fx "$1 $2" ;;
*) exit 1 ;;
esac
