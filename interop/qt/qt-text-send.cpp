// qt-text-send [--until-done | --until-close] [HOST] PORT FILE: the sender of the other tutorial,
// without QDataStream. It writes a head of text, name##size, waits so that this arrives alone, and
// writes the file. Without HOST it listens, and sends to the first that connects.

#include "listen.h"

#include <QFile>
#include <QFileInfo>
#include <QTcpSocket>
#include <QTimer>

class TextSender : public QObject
{
public:
    // When is it done? Written: when everything is. Answered: when the receiver says "file done".
    // Closed: when the receiver closes.
    enum Until { Written, Answered, Closed };

    TextSender(QTcpSocket *connection, const QString &path, Until untilWhen)
        : socket(connection), localFile(path), until(untilWhen)
    {
        connect(&pause, &QTimer::timeout, this, &TextSender::writeBody);
        connect(socket, &QTcpSocket::bytesWritten, this, [this](qint64 count) { left -= count; });
        connect(socket, &QTcpSocket::readyRead, this, &TextSender::readAnswer);
        connect(socket, &QTcpSocket::disconnected, this, &TextSender::disconnected);
    }

    void writeHead()
    {
        if (!localFile.open(QFile::ReadOnly))
            return fail(localFile.errorString());
        const QString head =
            QString("%1##%2").arg(QFileInfo(localFile).fileName()).arg(localFile.size());
        left = localFile.size() + socket->write(head.toUtf8());
        pause.setSingleShot(true);
        pause.start(20);
    }

private:
    void writeBody()
    {
        while (!localFile.atEnd())
            socket->write(localFile.read(4096));
        if (until == Written)
            socket->disconnectFromHost();   // later, when everything has left the buffer
    }

    void readAnswer()
    {
        const QByteArray answer = socket->readAll();
        if (answer != "file done" || until != Answered)
            return;
        QTextStream(stdout) << "answered " << answer << '\n';
        socket->disconnectFromHost();
    }

    void disconnected()
    {
        if (left > 0)
            return fail("connection lost");
        QCoreApplication::exit(0);
    }

    void fail(const QString &why)
    {
        QTextStream(stderr) << "qt-text-send: " << localFile.fileName() << ": " << why << '\n';
        QCoreApplication::exit(1);
    }

    QTcpSocket *const socket;
    QFile localFile;
    const Until until;
    QTimer pause;
    qint64 left = 1;            // bytes of head and file that have not left the socket's buffer
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    TextSender::Until until = TextSender::Written;
    if (args.value(0) == "--until-done" || args.value(0) == "--until-close")
        until = args.takeFirst() == "--until-done" ? TextSender::Answered : TextSender::Closed;
    if (args.size() != 2 && args.size() != 3) {
        QTextStream(stderr)
            << "usage: qt-text-send [--until-done | --until-close] [HOST] PORT FILE\n";
        return 1;
    }
    const QString path = args.takeLast();
    const quint16 port = args.takeLast().toUShort();
    QTcpServer server;
    QTcpSocket outgoing;
    QTcpSocket *socket = &outgoing;
    if (!args.isEmpty()) {
        outgoing.connectToHost(args[0], port);
        if (!outgoing.waitForConnected()) {
            QTextStream(stderr) << "qt-text-send: " << outgoing.errorString() << '\n';
            return 1;
        }
    } else {
        if (!listenLocally(&server, port))
            return 1;
        printListening(server);
        server.waitForNewConnection(-1);
        socket = server.nextPendingConnection();
        server.close();
    }
    TextSender sender(socket, path, until);
    QTimer::singleShot(0, &sender, &TextSender::writeHead);
    return app.exec();
}
