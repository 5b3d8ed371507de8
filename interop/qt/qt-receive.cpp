// qt-receive PORT DIR: the receiver of the tutorial, listening again after each file.

#include "listen.h"
#include "receiver.h"

class ListeningReceiver : public Receiver
{
public:
    ListeningReceiver(QTcpServer *listening, const QString &dir) : Receiver(dir), server(listening)
    {
        connect(server, &QTcpServer::newConnection, this, &ListeningReceiver::acceptConnection);
    }

private:
    void acceptConnection()
    {
        setConnection(server->nextPendingConnection());
        listenPort = server->serverPort();  // close() forgets it
        server->close();                    // a second sender is refused meanwhile
    }

    void disconnected() override
    {
        const QString report = endTransfer();
        if (!listenLocally(server, listenPort))
            return QCoreApplication::exit(1);
        // After that, so that whoever waits for this line can connect.
        QTextStream(stdout) << report;
    }

    QTcpServer *server;
    quint16 listenPort = 0;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() != 3) {
        QTextStream(stderr) << "usage: qt-receive PORT DIR\n";
        return 1;
    }
    QTcpServer server;
    ListeningReceiver receiver(&server, args[2]);
    if (!listenLocally(&server, args[1].toUShort()))
        return 1;
    printListening(server);
    return app.exec();
}
