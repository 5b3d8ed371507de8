// qt-receive-header-size [--strings] PORT DIR: the receiver of the "go on send" senders. It
// never closes and never writes, and one connection may bring file after file. --strings: it
// wants a user and an id behind the name, as chat programs do; from a sender without them they
// are empty, or the beginning of the body if that is there.
//
// Its faults are the deployed ones and stay. What arrives together with a header is
// left in the buffer until more arrives, which for a small file is never. The next
// header, if it arrives together with the end of a body, is taken for a part of it.
// All connections share one state: two senders at once spoil both files.

#include "listen.h"

#include <QDataStream>
#include <QFile>
#include <QFileInfo>
#include <QTcpSocket>

class StallingReceiver : public QObject
{
public:
    StallingReceiver(QTcpServer *listening, const QString &dir, bool isChat)
        : server(listening), directory(dir), wantsStrings(isChat)
    {
        connect(server, &QTcpServer::newConnection, this, &StallingReceiver::acceptConnection);
    }

private:
    void acceptConnection()
    {
        QTcpSocket *connection = server->nextPendingConnection();
        connect(connection, &QTcpSocket::readyRead, this,
                [this, connection] { receive(connection); });
        connect(connection, &QTcpSocket::disconnected, this,
                [this, connection] { disconnected(connection); });
    }

    void receive(QTcpSocket *connection)
    {
        current = connection;
        if (bytesReceived == 0) {
            if (totalBytes == 0 && connection->bytesAvailable() >= fixedSize) {
                QDataStream in(connection);
                in >> totalBytes >> headerSize;
            }
            if (totalBytes == 0 || connection->bytesAvailable() < headerSize - fixedSize)
                return;
            QDataStream in(connection);
            in >> fileName;
            QString user, id;
            if (wantsStrings)
                in >> user >> id;
            fileName = QFileInfo(fileName).fileName();
            bytesReceived = headerSize;
            // In Qt 5 the locale decides how the name is encoded on the disk: LC_ALL=C.UTF-8.
            localFile.setFileName(directory + '/' + fileName);
            if (!localFile.open(QFile::WriteOnly))
                QTextStream(stderr) << "qt-receive-header-size: " << localFile.fileName() << ": "
                                    << localFile.errorString() << '\n';
        } else {
            const QByteArray inBlock = connection->readAll();
            bytesReceived += inBlock.size();
            if (localFile.isOpen())
                localFile.write(inBlock);
        }
        // An empty file is complete with its header.
        if (bytesReceived == totalBytes)
            endTransfer("received ");
    }

    void disconnected(QTcpSocket *connection)
    {
        connection->deleteLater();
        // The deployed ones take the next sender's header for a part of the cut file.
        if (connection == current)
            endTransfer("cut ");
    }

    void endTransfer(const char *how)
    {
        localFile.close();
        QTextStream(stdout) << how << fileName << ' ' << bytesReceived - headerSize << '\n';
        current = nullptr;
        totalBytes = bytesReceived = headerSize = 0;
        fileName.clear();
    }

    static constexpr qint64 fixedSize = 2 * sizeof(qint64);

    QTcpServer *server;
    QString directory;
    bool wantsStrings;
    QTcpSocket *current = nullptr;  // whose file it is; null between two files
    QFile localFile;
    QString fileName;
    qint64 totalBytes = 0;
    qint64 headerSize = 0;
    qint64 bytesReceived = 0;       // 0: no header yet
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    const bool isChat = args.value(0) == "--strings";
    if (isChat)
        args.removeFirst();
    if (args.size() != 2) {
        QTextStream(stderr) << "usage: qt-receive-header-size [--strings] PORT DIR\n";
        return 1;
    }
    QTcpServer server;
    StallingReceiver receiver(&server, args[1], isChat);
    if (!listenLocally(&server, args[0].toUShort()))
        return 1;
    printListening(server);
    return app.exec();
}
