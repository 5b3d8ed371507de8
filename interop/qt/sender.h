// The tutorial's sender without its window. It connects, sends a file, closes and
// never reads; the other senders override what they do differently.
#pragma once

#include <QCoreApplication>
#include <QDataStream>
#include <QFile>
#include <QFileInfo>
#include <QTcpSocket>
#include <QTextStream>
#include <QTimer>

class Sender : public QObject
{
public:
    explicit Sender(const QStringList &paths, QTcpSocket *connection = nullptr)
        : socket(connection ? connection : new QTcpSocket(this)), files(paths)
    {
        connect(socket, &QTcpSocket::connected, this, &Sender::startTransfer);
        connect(socket, &QTcpSocket::bytesWritten, this, &Sender::continueTransfer);
        connect(socket, &QTcpSocket::disconnected, this, [this] { disconnected(); });
        connect(socket, &QTcpSocket::errorOccurred, this, [this] {
            // Once connected, every error ends in disconnected().
            if (totalBytes == 0)
                fail(host + ':' + QString::number(port) + ": " + socket->errorString());
        });
    }

    void connectToServer(const QString &toHost, quint16 toPort)
    {
        host = toHost;
        port = toPort;
        // In the tutorial a button does this, so the event loop is running. Before
        // exec() the exit() of an immediate refusal would be lost.
        QTimer::singleShot(0, this, [this] {
            if (openNextFile())
                socket->connectToHost(host, port);
        });
    }

    // For a socket that is connected.
    void sendNextFile()
    {
        if (openNextFile())
            startTransfer();
    }

protected:
    virtual QByteArray header() const { return nameSizeHeader(fileName); }

    virtual void everythingWritten() { socket->close(); }

    virtual void disconnected()
    {
        if (!isEverythingWritten())
            failCut();
        else if (!files.isEmpty())
            fail("the receiver closed before " + files.first());
        else
            QCoreApplication::exit(0);
    }

    QByteArray nameSizeHeader(const QString &name) const
    {
        QByteArray outBlock;
        QDataStream sendOut(&outBlock, QIODevice::WriteOnly);
        sendOut.setVersion(QDataStream::Qt_4_6);
        sendOut << qint64(0) << qint64(0) << name;
        sendOut.device()->seek(0);
        sendOut << qint64(outBlock.size() + fileSize)
                << qint64(outBlock.size() - 2 * sizeof(qint64));
        return outBlock;
    }

    bool isEverythingWritten() const { return bytesWritten == totalBytes; }

    void printSent() const
    {
        QTextStream(stdout) << "sent " << fileName << ' ' << fileSize << '\n';
    }

    void fail(const QString &why)
    {
        QTextStream(stderr) << QCoreApplication::applicationName() << ": " << why << '\n';
        socket->disconnect(this);
        QCoreApplication::exit(1);
    }

    void failCut()
    {
        fail(QString("connection lost after %1 of %2 bytes").arg(bytesWritten).arg(totalBytes));
    }

    QTcpSocket *const socket;
    QString host;
    quint16 port = 0;
    QStringList files;          // still to be sent
    QFile localFile;
    QString fileName;           // without its directory
    qint64 fileSize = 0;
    qint64 totalBytes = 0;      // header and file; 0 until connected
    qint64 bytesWritten = 0;    // of these, gone from the socket's buffer
    qint64 loadSize = 64 * 1024;

private:
    bool openNextFile()
    {
        localFile.setFileName(files.takeFirst());
        fileName = QFileInfo(localFile).fileName();
        totalBytes = bytesWritten = 0;
        if (localFile.open(QFile::ReadOnly))
            return true;
        fail(localFile.fileName() + ": " + localFile.errorString());
        return false;
    }

    void startTransfer()
    {
        fileSize = localFile.size();
        const QByteArray outBlock = header();
        totalBytes = outBlock.size() + fileSize;
        bytesToWrite = totalBytes - socket->write(outBlock);
    }

    void continueTransfer(qint64 numBytes)
    {
        bytesWritten += numBytes;
        // The signal may come for a part of a block. The next block waits for the
        // whole, so that never more than one is in memory.
        if (bytesToWrite > 0 && socket->bytesToWrite() == 0) {
            const QByteArray outBlock = localFile.read(qMin(bytesToWrite, loadSize));
            if (outBlock.isEmpty())
                return fail(localFile.fileName() + ": became shorter or unreadable");
            bytesToWrite -= socket->write(outBlock);
        }
        if (isEverythingWritten()) {
            localFile.close();
            everythingWritten();
        }
    }

    qint64 bytesToWrite = 0;    // not yet given to the socket
};
