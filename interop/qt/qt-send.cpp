// qt-send HOST PORT FILE [NAME]: the sender of the tutorial. It never reads.

#include "sender.h"

class NamingSender : public Sender
{
public:
    NamingSender(const QString &path, const QString &asName) : Sender({path}), name(asName) {}

private:
    QByteArray header() const override { return nameSizeHeader(name); }

    QString name;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() != 4 && args.size() != 5) {
        QTextStream(stderr) << "usage: qt-send HOST PORT FILE [NAME]\n";
        return 1;
    }
    NamingSender sender(args[3], args.value(4, QFileInfo(args[3]).fileName()));
    sender.connectToServer(args[1], args[2].toUShort());
    return app.exec();
}
