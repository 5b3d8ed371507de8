// qt-send [VARIANT] HOST PORT FILE [NAME]: the sender of the tutorial. It never reads. The variants
// are what others write who know one step of it differently.

#include "sender.h"

static const char usage[] =
    "usage: qt-send [VARIANT] HOST PORT FILE [NAME]\n"
    "--string STRING  behind the name, and counted with it\n"
    "--name-bytes     the name is a QByteArray\n"
    "--name-char      the name is a char *\n"
    "--body-bytes     the file is a QByteArray; total does not count its length\n"
    "--total-file     total counts the file alone\n"
    "--total-unnamed  total misses the name\n";

class VariantSender : public Sender
{
public:
    VariantSender(const QString &path, const QString &asName, const QString &whichVariant,
                  const QString &furtherString)
        : Sender({path}), name(asName), variant(whichVariant), string(furtherString)
    {
    }

private:
    QByteArray header() const override
    {
        QByteArray outBlock;
        QDataStream sendOut(&outBlock, QIODevice::WriteOnly);
        sendOut.setVersion(QDataStream::Qt_4_6);
        sendOut << qint64(0) << qint64(0);
        const qint64 fixedSize = outBlock.size();
        if (variant == "--name-bytes")
            sendOut << name.toUtf8();
        else if (variant == "--name-char")
            sendOut << name.toUtf8().constData();
        else
            sendOut << name;
        if (variant == "--string")
            sendOut << string;

        qint64 total = outBlock.size() + fileSize;
        if (variant == "--total-file")
            total = fileSize;
        else if (variant == "--total-unnamed")
            total = fixedSize + fileSize;
        const qint64 nameSize = outBlock.size() - fixedSize;
        if (variant == "--body-bytes")
            sendOut << quint32(fileSize);   // the bytes of the array follow
        sendOut.device()->seek(0);
        sendOut << total << nameSize;
        return outBlock;
    }

    QString name;
    QString variant;
    QString string;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    const QString variant = args.value(0).startsWith("--") ? args.takeFirst() : QString();
    const QString string = variant == "--string" && !args.isEmpty() ? args.takeFirst() : QString();
    const bool isKnown = variant.isEmpty() || QString(usage).contains('\n' + variant + ' ');
    if ((args.size() != 3 && args.size() != 4) || !isKnown) {
        QTextStream(stderr) << usage;
        return 1;
    }
    VariantSender sender(args[2], args.value(3, QFileInfo(args[2]).fileName()), variant, string);
    sender.connectToServer(args[0], args[1].toUShort());
    return app.exec();
}
