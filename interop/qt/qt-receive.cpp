// qt-receive PORT DIR: the receiver of the tutorial, listening again after each
// file. It never writes to the sender.
//
// Its faults are the deployed ones and stay: the name is used as it came, a file
// that cannot be opened is received all the same, a cut file stays where it is,
// and a byte after the body is never forgiven.

#include <QCoreApplication>
#include <QDataStream>
#include <QFile>
#include <QTcpServer>
#include <QTcpSocket>
#include <QTextStream>

class Receiver : public QObject
{
public:
    explicit Receiver(const QString &dir) : directory(dir)
    {
        connect(&server, &QTcpServer::newConnection, this, &Receiver::acceptConnection);
    }

    bool listen(quint16 port)
    {
        if (server.listen(QHostAddress::LocalHost, port))
            return true;
        QTextStream(stderr) << "qt-receive: 127.0.0.1:" << port << ": "
                            << server.errorString() << '\n';
        return false;
    }

    quint16 port() const { return server.serverPort(); }

private:
    void acceptConnection()
    {
        connection = server.nextPendingConnection();
        connect(connection, &QTcpSocket::readyRead, this, &Receiver::receive);
        connect(connection, &QTcpSocket::disconnected, this, &Receiver::finish);
        listenPort = server.serverPort();   // close() forgets it
        server.close();                     // a second sender is refused meanwhile
    }

    void receive()
    {
        QDataStream in(connection);
        in.setVersion(QDataStream::Qt_4_6);

        if (bytesReceived <= fixedSize) {
            if (connection->bytesAvailable() >= fixedSize && fileNameSize == 0) {
                in >> totalBytes >> fileNameSize;
                bytesReceived += fixedSize;
            }
            if (connection->bytesAvailable() >= fileNameSize && fileNameSize != 0) {
                in >> fileName;
                bytesReceived += fileNameSize;
                // In Qt 5 the locale decides how the name is encoded on the disk: LC_ALL=C.UTF-8.
                localFile.setFileName(directory + '/' + fileName);
                if (!localFile.open(QFile::WriteOnly))
                    QTextStream(stderr) << "qt-receive: " << localFile.fileName() << ": "
                                        << localFile.errorString() << '\n';
            } else {
                return;
            }
        }
        if (bytesReceived < totalBytes) {
            const QByteArray inBlock = connection->readAll();
            bytesReceived += inBlock.size();
            if (localFile.isOpen())
                localFile.write(inBlock);
        }
        if (bytesReceived == totalBytes)
            connection->close();            // calls finish()
    }

    // Either side has closed.
    void finish()
    {
        const bool hasHeader = bytesReceived > fixedSize;
        const bool complete = hasHeader && bytesReceived == totalBytes;
        const qint64 bodySize = hasHeader ? bytesReceived - fixedSize - fileNameSize : 0;
        const QString name = fileName;

        connection->deleteLater();
        localFile.close();
        totalBytes = bytesReceived = fileNameSize = 0;
        fileName.clear();
        if (!listen(listenPort))
            return QCoreApplication::exit(1);

        // After listen(), so that whoever waits for this line can connect.
        QTextStream(stdout) << (complete ? "received " : "cut ") << name << ' ' << bodySize << '\n';
    }

    static constexpr qint64 fixedSize = 2 * sizeof(qint64);

    QTcpServer server;
    quint16 listenPort = 0;
    QTcpSocket *connection = nullptr;
    QString directory;
    QFile localFile;
    QString fileName;
    qint64 totalBytes = 0;
    qint64 bytesReceived = 0;
    qint64 fileNameSize = 0;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() != 3) {
        QTextStream(stderr) << "usage: qt-receive PORT DIR\n";
        return 1;
    }
    Receiver receiver(args[2]);
    if (!receiver.listen(args[1].toUShort()))
        return 1;
    QTextStream(stdout) << "listening on 127.0.0.1:" << receiver.port() << '\n';
    return app.exec();
}
