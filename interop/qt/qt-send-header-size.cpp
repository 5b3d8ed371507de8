// qt-send-header-size [--strings USER ID] HOST PORT FILE...: the "go on send" sender.
// The header tells its whole size and the file's full path, and with --strings what
// chat programs add; the blocks are tiny. It stays connected, and standard input is
// the button that sends the next file: a line "next". A line "quit" closes.

#include "sender.h"

#include <QSocketNotifier>

#include <cstdio>

class GoOnSender : public Sender
{
public:
    GoOnSender(const QStringList &paths, const QStringList &furtherStrings)
        : Sender(paths), strings(furtherStrings), button(fileno(stdin), QSocketNotifier::Read)
    {
        loadSize = 90;
        // The notifier cannot see a line that already is in a buffer.
        setvbuf(stdin, nullptr, _IONBF, 0);
        button.setEnabled(false);
        connect(&button, &QSocketNotifier::activated, this, [this] { buttonPressed(); });
    }

private:
    QByteArray header() const override
    {
        QByteArray outBlock;
        QDataStream sendOut(&outBlock, QIODevice::WriteOnly);
        sendOut.setVersion(QDataStream::Qt_4_6);
        sendOut << qint64(0) << qint64(0) << QFileInfo(localFile).absoluteFilePath();
        for (const QString &string : strings)
            sendOut << string;
        sendOut.device()->seek(0);
        sendOut << qint64(outBlock.size() + fileSize) << qint64(outBlock.size());
        return outBlock;
    }

    void everythingWritten() override
    {
        printSent();
        // Not before: the deployed ones mix two files up when somebody is impatient.
        button.setEnabled(true);
    }

    void buttonPressed()
    {
        button.setEnabled(false);
        char line[16];
        if (fgets(line, sizeof line, stdin) && qstrcmp(line, "next\n") == 0 && !files.isEmpty())
            return sendNextFile();
        files.clear();
        socket->close();
    }

    QStringList strings;
    QSocketNotifier button;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    QStringList strings;
    if (args.value(0) == "--strings") {
        strings = args.mid(1, 2);
        args = args.mid(3);
    }
    if (args.size() < 3) {
        QTextStream(stderr)
            << "usage: qt-send-header-size [--strings USER ID] HOST PORT FILE...\n";
        return 1;
    }
    GoOnSender sender(args.mid(2), strings);
    sender.connectToServer(args[0], args[1].toUShort());
    return app.exec();
}
