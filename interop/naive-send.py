#!/usr/bin/env python3
"""naive-send.py HOST PORT FILE...: what a shell script or a microcontroller does.

All files go over one connection, header after header, as fast as they can be
written. It never reads its socket, and closes at once.
"""

import os
import socket
import struct
import sys


def header(name, size):
    string = name.encode("utf-16-be")
    return struct.pack(">qqI", 20 + len(string) + size, 4 + len(string), len(string)) + string


def main():
    if len(sys.argv) < 4:
        sys.exit("usage: naive-send.py HOST PORT FILE...")
    host, port, *paths = sys.argv[1:]
    connection = socket.create_connection((host, int(port)))
    for path in paths:
        with open(path, "rb") as file:
            body = file.read()
        connection.sendall(header(os.path.basename(path), len(body)) + body)
    connection.close()


main()
