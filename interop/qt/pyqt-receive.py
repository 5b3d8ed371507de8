#!/usr/bin/python3
"""pyqt-receive.py [HOST] PORT DIR: the receiver of a PyQt course. Without HOST it listens, and takes one
file after another; with it, it connects and takes one.

Its fault is the deployed one and stays: it waits for as many bytes as the second number says before it
reads the name, which are 14 more than the name has. A body that is smaller is never looked at.
"""

import sys

from PyQt5.QtCore import QCoreApplication, QDataStream, QFile, QIODevice
from PyQt5.QtNetwork import QHostAddress, QTcpServer, QTcpSocket

FIXED = 2  # Where C++ says sizeof(qint64) * 2.


class Receiver:
    def __init__(self, directory, ended):
        self.directory = directory
        self.ended = ended

    def set_connection(self, socket):
        self.socket = socket
        self.total = self.name_size = self.received = 0
        self.name, self.file = "", QFile()
        self.body = 0
        socket.readyRead.connect(self.receive)
        socket.disconnected.connect(self.disconnected)
        self.receive()

    def receive(self):
        if self.received <= FIXED:
            stream = QDataStream(self.socket)
            if self.name_size == 0 and self.socket.bytesAvailable() >= 16:
                self.total, self.name_size = stream.readInt64(), stream.readInt64()
                self.received += FIXED
            if self.name_size == 0 or self.socket.bytesAvailable() < self.name_size:
                return
            self.name = stream.readQString()
            self.received += self.name_size
            self.file.setFileName(f"{self.directory}/{self.name}")
            self.file.open(QIODevice.WriteOnly)
        if self.received < self.total:
            block = self.socket.readAll()
            self.received += block.size()
            self.body += block.size()
            self.file.write(block)
        if self.received == self.total:
            self.socket.close()

    def disconnected(self):
        self.file.close()
        is_complete = self.received > FIXED and self.received == self.total
        print("received" if is_complete else "cut", self.name, self.body, flush=True)
        self.ended()


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: pyqt-receive.py [HOST] PORT DIR")
    *host, port, directory = sys.argv[1:]
    app = QCoreApplication(sys.argv)
    if host:
        receiver = Receiver(directory, app.quit)
        socket = QTcpSocket()
        socket.connectToHost(host[0], int(port))
        if not socket.waitForConnected():
            sys.exit(f"pyqt-receive.py: {socket.errorString()}")
        receiver.set_connection(socket)
    else:
        receiver = Receiver(directory, lambda: None)
        server = QTcpServer()
        server.newConnection.connect(lambda: receiver.set_connection(server.nextPendingConnection()))
        if not server.listen(QHostAddress(QHostAddress.LocalHost), int(port)):
            sys.exit(f"pyqt-receive.py: {server.errorString()}")
        print(f"listening on 127.0.0.1:{server.serverPort()}", flush=True)
    sys.exit(app.exec())


main()
