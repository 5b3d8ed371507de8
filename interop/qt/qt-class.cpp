// qt-class [--resume] [--preserve] [--retry N] [--timeout SECS] HOST PORT FILE: sends with the
// class of contrib/qt, and tries again after a second if that failed.

#include "qdropsender.h"

#include <QCoreApplication>
#include <QTextStream>
#include <QTimer>

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    QStringList args = app.arguments().mid(1);
    QDropSender sender;
    int retries = 0;
    while (args.size() > 3) {
        const QString option = args.takeFirst();
        if (option == "--resume")
            sender.setOptions(sender.options() | QDropSender::Resume);
        else if (option == "--preserve")
            sender.setOptions(sender.options() | QDropSender::PreserveTime);
        else if (option == "--retry")
            retries = args.takeFirst().toInt();
        else if (option == "--timeout")
            sender.setIdleTimeout(1000 * args.takeFirst().toInt());
        else
            args.clear();
    }
    if (args.size() != 3) {
        QTextStream(stderr) << "usage: qt-class [--resume] [--preserve] [--retry N] "
                               "[--timeout SECS] HOST PORT FILE\n";
        return 1;
    }
    QTextStream out(stdout);
    const auto send = [&] { sender.send(args[2], args[0], args[1].toUShort()); };

    qint64 last = -1;
    QObject::connect(&sender, &QDropSender::progress, [&](qint64 sent, qint64 total) {
        if (sent < last || sent > total)
            out << "progress goes back: " << sent << " of " << total << '\n';
        last = sent;
    });
    QObject::connect(&sender, &QDropSender::stored, [&](const QString &name, quint64 digest) {
        out << QString("stored as %1 (xxh64 %2, progress %3)\n")
                   .arg(name, QString("%1").arg(digest, 16, 16, QChar('0'))).arg(last);
        QCoreApplication::exit(0);
    });
    QObject::connect(&sender, &QDropSender::sentUnconfirmed, [&] {
        out << "sent: the receiver gave no receipt\n";
        QCoreApplication::exit(0);
    });
    QObject::connect(&sender, &QDropSender::refused, [&](int status, const QString &message) {
        out << "refused (status " << status << "): " << message << '\n';
        QCoreApplication::exit(5);
    });
    QObject::connect(&sender, &QDropSender::failed, [&](const QString &why) {
        out << "failed: " << why << '\n';
        if (retries-- == 0)
            return QCoreApplication::exit(4);
        last = -1;
        QTimer::singleShot(1000, &sender, send);
    });
    send();
    return app.exec();
}
