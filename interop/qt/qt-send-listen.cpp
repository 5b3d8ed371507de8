// qt-send-listen PORT FILE: reversed roles. It listens, and sends to the first that
// connects; the bytes are the tutorial's.

#include "listen.h"
#include "sender.h"

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() != 3) {
        QTextStream(stderr) << "usage: qt-send-listen PORT FILE\n";
        return 1;
    }
    QTcpServer server;
    if (!listenLocally(&server, args[1].toUShort()))
        return 1;
    printListening(server);
    server.waitForNewConnection(-1);
    Sender sender({args[2]}, server.nextPendingConnection());
    server.close();
    QTimer::singleShot(0, &sender, &Sender::sendNextFile);
    return app.exec();
}
