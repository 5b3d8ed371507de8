// qt-text-receive [--answer TEXT] [HOST] PORT DIR: the receiver of the other tutorial. What its first
// readyRead brings is the head, name##size, and everything after it the file. Without HOST it listens,
// and takes one file after another; with it, it connects and takes one.
//
// Its faults are the deployed ones and stay: a head that arrives in two pieces or together with a
// body is misread, and an empty file is never complete.

#include "listen.h"

#include <QFile>
#include <QTcpSocket>

class TextReceiver : public QObject
{
public:
    TextReceiver(const QString &dir, const QByteArray &says) : directory(dir), answer(says) {}

    void setConnection(QTcpSocket *socket, bool isOnly)
    {
        connection = socket;
        connect(socket, &QTcpSocket::readyRead, this, &TextReceiver::receive);
        connect(socket, &QTcpSocket::disconnected, this, [this, isOnly] {
            endTransfer();
            if (isOnly)
                QCoreApplication::exit(0);
        });
    }

private:
    void receive()
    {
        const QByteArray bytes = connection->readAll();
        if (isHead) {
            isHead = false;
            fileName = QString(bytes).section("##", 0, 0);
            fileSize = QString(bytes).section("##", 1, 1).toLongLong();
            // In Qt 5 the locale decides how the name is encoded on the disk: LC_ALL=C.UTF-8.
            localFile.setFileName(directory + '/' + fileName);
            if (!localFile.open(QFile::WriteOnly))
                QTextStream(stderr) << "qt-text-receive: " << localFile.fileName() << ": "
                                    << localFile.errorString() << '\n';
            return;
        }
        localFile.write(bytes);
        bytesReceived += bytes.size();
        if (bytesReceived == fileSize) {
            connection->write(answer);
            connection->disconnectFromHost();   // calls disconnected, when the answer has gone
        }
    }

    void endTransfer()
    {
        localFile.close();
        const bool isComplete = !isHead && bytesReceived == fileSize;
        QTextStream(stdout) << (isComplete ? "received " : "cut ") << fileName << ' '
                            << bytesReceived << '\n';
        connection->deleteLater();
        isHead = true;
        fileName.clear();
        fileSize = bytesReceived = 0;
    }

    const QString directory;
    const QByteArray answer;
    QTcpSocket *connection = nullptr;
    bool isHead = true;
    QFile localFile;
    QString fileName;
    qint64 fileSize = 0;
    qint64 bytesReceived = 0;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    QByteArray answer;
    if (args.value(0) == "--answer") {
        answer = args.value(1).toUtf8();
        args = args.mid(2);
    }
    if (args.size() != 2 && args.size() != 3) {
        QTextStream(stderr) << "usage: qt-text-receive [--answer TEXT] [HOST] PORT DIR\n";
        return 1;
    }
    TextReceiver receiver(args.takeLast(), answer);
    const quint16 port = args.takeLast().toUShort();
    QTcpServer server;
    if (!args.isEmpty()) {
        auto *outgoing = new QTcpSocket(&receiver);
        outgoing->connectToHost(args[0], port);
        if (!outgoing->waitForConnected()) {
            QTextStream(stderr) << "qt-text-receive: " << outgoing->errorString() << '\n';
            return 1;
        }
        receiver.setConnection(outgoing, true);
    } else {
        QObject::connect(&server, &QTcpServer::newConnection, &receiver, [&] {
            receiver.setConnection(server.nextPendingConnection(), false);
        });
        if (!listenLocally(&server, port))
            return 1;
        printListening(server);
    }
    return app.exec();
}
