// qt-send-many HOST PORT FILE...: all files on one connection, header after header,
// with a pause between them, each name a path below the receiver's directory.

#include "sender.h"

class ManySender : public Sender
{
    using Sender::Sender;

    QByteArray header() const override { return nameSizeHeader("/sub/" + fileName); }

    void everythingWritten() override
    {
        printSent();
        if (files.isEmpty())
            socket->close();
        else
            // Sooner, a receiver's readAll() could take the next header for a part of
            // this file.
            QTimer::singleShot(50, this, &ManySender::sendNextFile);
    }
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() < 4) {
        QTextStream(stderr) << "usage: qt-send-many HOST PORT FILE...\n";
        return 1;
    }
    ManySender sender(args.mid(3));
    sender.connectToServer(args[1], args[2].toUShort());
    return app.exec();
}
