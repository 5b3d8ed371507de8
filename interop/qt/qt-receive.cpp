// qt-receive [--second-read] [--away MSECS] PORT DIR: the receiver of the tutorial, listening again
// after each file.

#include "listen.h"
#include "receiver.h"

#include <QTimer>

class ListeningReceiver : public Receiver
{
public:
    ListeningReceiver(QTcpServer *listening, const QString &dir, bool isSecondRead, int msecsAway)
        : Receiver(dir), server(listening), needsSecondRead(isSecondRead), away(msecsAway)
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

    // Many programs have an "else" between the sizes and the name. The name then waits for another
    // readyRead, which never comes if a small file arrives together with its header.
    bool readHeader() override
    {
        if (!needsSecondRead)
            return Receiver::readHeader();
        if (fileNameSize != 0)
            return readName();
        readSizes();
        return false;
    }

    void disconnected() override
    {
        const QString report = endTransfer();
        QTimer::singleShot(away, this, [this, report] {
            if (!listenLocally(server, listenPort))
                return QCoreApplication::exit(1);
            // After that, so that whoever waits for this line can connect.
            QTextStream(stdout) << report;
        });
    }

    QTcpServer *server;
    bool needsSecondRead;
    int away;                   // between two files, in milliseconds
    quint16 listenPort = 0;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    bool isSecondRead = false;
    int away = 0;
    while (args.size() > 2) {
        const QString option = args.takeFirst();
        if (option == "--second-read")
            isSecondRead = true;
        else if (option == "--away")
            away = args.takeFirst().toInt();
        else
            args.clear();
    }
    if (args.size() != 2) {
        QTextStream(stderr) << "usage: qt-receive [--second-read] [--away MSECS] PORT DIR\n";
        return 1;
    }
    QTcpServer server;
    ListeningReceiver receiver(&server, args[1], isSecondRead, away);
    if (!listenLocally(&server, args[0].toUShort()))
        return 1;
    printListening(server);
    return app.exec();
}
