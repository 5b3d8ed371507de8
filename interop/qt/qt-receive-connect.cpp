// qt-receive-connect HOST PORT DIR: reversed roles. It connects to a sender that
// listens, and takes one file as the tutorial's receiver does.

#include "receiver.h"

#include <QTimer>

class ConnectingReceiver : public Receiver
{
public:
    using Receiver::Receiver;

    void connectToSender(const QString &host, quint16 port)
    {
        auto *socket = new QTcpSocket(this);
        connect(socket, &QTcpSocket::connected, this, [this, socket] { setConnection(socket); });
        connect(socket, &QTcpSocket::errorOccurred, this, [this, socket, host, port] {
            // Once connected, every error ends in disconnected().
            if (connection)
                return;
            QTextStream(stderr) << "qt-receive-connect: " << host << ':' << port << ": "
                                << socket->errorString() << '\n';
            QCoreApplication::exit(1);
        });
        // Before exec() the exit() of an immediate refusal would be lost.
        QTimer::singleShot(0, this, [socket, host, port] { socket->connectToHost(host, port); });
    }

private:
    void disconnected() override
    {
        const bool complete = isComplete();
        QTextStream(stdout) << endTransfer();
        QCoreApplication::exit(complete ? 0 : 1);
    }
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() != 4) {
        QTextStream(stderr) << "usage: qt-receive-connect HOST PORT DIR\n";
        return 1;
    }
    ConnectingReceiver receiver(args[3]);
    receiver.connectToSender(args[1], args[2].toUShort());
    return app.exec();
}
