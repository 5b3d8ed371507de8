// qt-send-patient HOST PORT FILE...: never closes. The receiver's close tells it that
// the file has arrived; it then connects again for the next.

#include "sender.h"

class PatientSender : public Sender
{
    using Sender::Sender;

    void everythingWritten() override {}

    void disconnected() override
    {
        if (!isEverythingWritten())
            return failCut();
        printSent();
        if (files.isEmpty())
            QCoreApplication::exit(0);
        else
            connectToServer(host, port);
    }
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() < 4) {
        QTextStream(stderr) << "usage: qt-send-patient HOST PORT FILE...\n";
        return 1;
    }
    PatientSender sender(args.mid(3));
    sender.connectToServer(args[1], args[2].toUShort());
    return app.exec();
}
