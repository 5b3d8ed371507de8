// The tutorial's sender without its window. qt-send and qt-receipt differ only
// in what they do once everything is written.
#pragma once

#include <QCoreApplication>
#include <QDataStream>
#include <QFile>
#include <QTcpSocket>
#include <QTextStream>
#include <QTimer>

class Sender : public QObject
{
public:
    Sender(const QString &path, const QString &name) : localFile(path), fileName(name)
    {
        connect(&socket, &QTcpSocket::connected, this, &Sender::startTransfer);
        connect(&socket, &QTcpSocket::bytesWritten, this, &Sender::continueTransfer);
        connect(&socket, &QTcpSocket::disconnected, this, [this] { disconnected(); });
    }

    void connectToServer(const QString &host, quint16 port)
    {
        connect(&socket, &QTcpSocket::errorOccurred, this, [this, host, port] {
            // Once connected, every error ends in disconnected().
            if (totalBytes == 0)
                fail(host + ':' + QString::number(port) + ": " + socket.errorString());
        });
        // In the tutorial a button does this, so the event loop is running. Before
        // exec() the exit() of an immediate refusal would be lost.
        QTimer::singleShot(0, this, [this, host, port] {
            if (localFile.open(QFile::ReadOnly))
                socket.connectToHost(host, port);
            else
                fail(localFile.fileName() + ": " + localFile.errorString());
        });
    }

protected:
    virtual void everythingWritten() = 0;
    virtual void disconnected() = 0;

    bool isEverythingWritten() const { return bytesWritten == totalBytes; }

    void fail(const QString &why)
    {
        QTextStream(stderr) << QCoreApplication::applicationName() << ": " << why << '\n';
        socket.disconnect(this);
        QCoreApplication::exit(1);
    }

    void failCut()
    {
        fail(QString("connection lost after %1 of %2 bytes").arg(bytesWritten).arg(totalBytes));
    }

    QTcpSocket socket;
    QFile localFile;
    QString fileName;
    qint64 fileSize = 0;
    qint64 totalBytes = 0;      // header and file; 0 until connected
    qint64 bytesWritten = 0;    // of these, gone from the socket's buffer

private:
    void startTransfer()
    {
        fileSize = localFile.size();
        QByteArray outBlock;
        QDataStream sendOut(&outBlock, QIODevice::WriteOnly);
        sendOut.setVersion(QDataStream::Qt_4_6);
        sendOut << qint64(0) << qint64(0) << fileName;
        totalBytes = fileSize + outBlock.size();
        sendOut.device()->seek(0);
        sendOut << totalBytes << qint64(outBlock.size() - 2 * sizeof(qint64));
        bytesToWrite = totalBytes - socket.write(outBlock);
    }

    void continueTransfer(qint64 numBytes)
    {
        bytesWritten += numBytes;
        // The signal may come for a part of a block. The next block waits for the
        // whole, so that never more than one is in memory.
        if (bytesToWrite > 0 && socket.bytesToWrite() == 0) {
            const QByteArray outBlock = localFile.read(qMin(bytesToWrite, loadSize));
            if (outBlock.isEmpty())
                return fail(localFile.fileName() + ": became shorter or unreadable");
            bytesToWrite -= socket.write(outBlock);
        }
        if (isEverythingWritten()) {
            localFile.close();
            everythingWritten();
        }
    }

    static constexpr qint64 loadSize = 64 * 1024;
    qint64 bytesToWrite = 0;    // not yet given to the socket
};
