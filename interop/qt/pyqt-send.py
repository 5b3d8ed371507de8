#!/usr/bin/python3
"""pyqt-send.py PORT FILE: the sender of a PyQt course. It listens, and sends to the first that connects.

Its header is the tutorial's but for the second number: where C++ says sizeof(qint64) * 2, it takes 2.
"""

import os
import sys

from PyQt5.QtCore import QByteArray, QCoreApplication, QDataStream, QFile, QIODevice
from PyQt5.QtNetwork import QHostAddress, QTcpServer


class Sender(QTcpServer):
    def __init__(self, path):
        super().__init__()
        self.file = QFile(path)
        self.newConnection.connect(self.start_transfer)

    def start_transfer(self):
        self.socket = self.nextPendingConnection()
        self.close()
        self.socket.bytesWritten.connect(self.continue_transfer)
        self.socket.disconnected.connect(lambda: QCoreApplication.exit(1))
        self.file.open(QIODevice.ReadOnly)
        block = QByteArray()
        out = QDataStream(block, QIODevice.WriteOnly)
        out.writeInt64(0)
        out.writeInt64(0)
        out.writeQString(os.path.basename(self.file.fileName()))
        self.left = block.size() + self.file.size()
        out.device().seek(0)
        out.writeInt64(self.left)
        out.writeInt64(block.size() - 2)
        self.socket.write(block)

    def continue_transfer(self, count):
        self.left -= count
        if self.left == 0:
            self.socket.disconnected.disconnect()
            self.socket.close()
            QCoreApplication.exit(0)
        elif self.socket.bytesToWrite() == 0:
            self.socket.write(self.file.read(4096))


if len(sys.argv) != 3:
    sys.exit("usage: pyqt-send.py PORT FILE")
app = QCoreApplication(sys.argv)
sender = Sender(sys.argv[2])
if not sender.listen(QHostAddress(QHostAddress.LocalHost), int(sys.argv[1])):
    sys.exit(f"pyqt-send.py: {sender.errorString()}")
print(f"listening on 127.0.0.1:{sender.serverPort()}", flush=True)
sys.exit(app.exec())
