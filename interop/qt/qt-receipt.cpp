// qt-receipt HOST PORT FILE: the sender of the tutorial, and what it takes to
// learn that the file is safe: finishSending(), readReceipt(), and the slots
// that call them.

#include "sender.h"

#ifdef Q_OS_WIN
#include <winsock2.h>
#else
#include <sys/socket.h>
#endif

// The receiver answers when it has seen the end of our stream, but close() would
// give up reading as well, and QTcpSocket has no call that ends only the writing.
// To be called when bytesToWrite() is 0: this goes past QTcpSocket, and what it
// still held back could not be sent any more.
static void finishSending(const QTcpSocket &socket)
{
#ifdef Q_OS_WIN
    ::shutdown(SOCKET(socket.socketDescriptor()), SD_SEND);
#else
    ::shutdown(int(socket.socketDescriptor()), SHUT_WR);
#endif
}

struct Receipt
{
    quint8 status = 0;          // 0: stored; anything else: refused, see message
    quint64 bodySize = 0;       // bytes of the file, without the header
    quint64 digest = 0;         // XXH64 of these bytes, seed 0
    QString storedName;         // may differ from the name sent
    QString message;            // for a person
};

// Give it everything the receiver wrote until it disconnected. False means no
// receipt: older receivers write nothing, or a few bytes of their own.
static bool readReceipt(const QByteArray &answer, Receipt *receipt)
{
    QDataStream in(answer);
    in.setVersion(QDataStream::Qt_4_6);
    quint32 magic = 0;
    in >> magic >> receipt->status >> receipt->bodySize >> receipt->digest
       >> receipt->storedName >> receipt->message;
    return magic == 0x51445231 && in.status() == QDataStream::Ok;   // "QDR1"
}

class ReceiptSender : public Sender
{
public:
    explicit ReceiptSender(const QString &path) : Sender({path})
    {
        // At once, not at the end: a write error empties the socket's read buffer,
        // and a refusal may have come before it.
        connect(socket, &QTcpSocket::readyRead, this, [this] { answer += socket->readAll(); });
    }

private:
    void everythingWritten() override { finishSending(*socket); }

    void disconnected() override
    {
        QTextStream out(stdout);
        Receipt receipt;
        const bool hasReceipt = readReceipt(answer, &receipt);

        if (hasReceipt && receipt.status != 0) {
            out << "refused (status " << int(receipt.status) << "): " << receipt.message << '\n';
            return QCoreApplication::exit(5);
        }
        if (!isEverythingWritten())
            return failCut();
        if (hasReceipt && receipt.bodySize != quint64(fileSize))
            return fail(QString("sent %1 bytes, but the receipt is for %2")
                            .arg(fileSize).arg(receipt.bodySize));
        if (hasReceipt)
            out << QString("stored %1 as %2 (%3 bytes, xxh64 %4)\n")
                       .arg(fileName, receipt.storedName, QString::number(fileSize),
                            QString("%1").arg(receipt.digest, 16, 16, QChar('0')));
        else
            out << "sent " << fileName << " (" << fileSize
                << " bytes): the receiver gave no receipt\n";
        QCoreApplication::exit(0);
    }

    QByteArray answer;
};

int main(int argc, char *argv[])
{
    QCoreApplication app(argc, argv);
    const QStringList args = app.arguments();
    if (args.size() != 4) {
        QTextStream(stderr) << "usage: qt-receipt HOST PORT FILE\n";
        return 1;
    }
    ReceiptSender sender(args[3]);
    sender.connectToServer(args[1], args[2].toUShort());
    return app.exec();
}
