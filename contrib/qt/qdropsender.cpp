// SPDX-License-Identifier: MIT OR Apache-2.0
// Copyright (c) 2026 The qdrop authors

#include "qdropsender.h"

#include <QCoreApplication>
#include <QDataStream>
#include <QDateTime>
#include <QFile>
#include <QFileInfo>
#include <QSocketNotifier>
#include <QTcpSocket>
#include <QTimer>
#include <QtEndian>

#include <cstring>
#include <functional>

#ifdef Q_OS_WIN
#include <winsock2.h>
#else
#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

namespace {

// Bytes that are read at once, and that the socket may hold: what it holds is in memory.
const qint64 Block = 64 * 1024;
const qint64 MaxBuffered = 256 * 1024;
// Bytes that are compared between two looks at the events.
const qint64 CompareBlock = 1024 * 1024;
// Bytes of the longest answer: a receipt with a name and a message of 64 KiB each.
const int MaxAnswer = 25 + 2 * (64 * 1024);
// Bytes in a millisecond of the slowest disk that is waited for.
const qint64 SlowDisk = 8 * 1024 * 1024 / 1000;
// Milliseconds between header and body. Some receivers lose a small file without it: they look for
// the name only when more arrives after the sizes.
const int HeaderPause = 20;
// Milliseconds between two looks whether the system has sent everything.
const int DrainInterval = 10;

const quint32 AnswerMagic = 0x51444F32;     // "QDO2"
const quint32 ReceiptMagic = 0x51445231;    // "QDR1"

// XXH64 with seed 0, from the specification ("xxHash fast digest algorithm", version 0.1.1).
class Xxh64
{
public:
    void update(const char *bytes, qint64 count)
    {
        const int had = held();
        length += quint64(count);
        if (had > 0) {
            const qint64 wanted = qMin<qint64>(Stripe - had, count);
            std::memcpy(tail + had, bytes, size_t(wanted));
            if (had + wanted < Stripe)
                return;
            consume(tail);
            bytes += wanted;
            count -= wanted;
        }
        for (; count >= Stripe; bytes += Stripe, count -= Stripe)
            consume(bytes);
        std::memcpy(tail, bytes, size_t(count));
    }

    quint64 digest() const
    {
        quint64 hash = P5;
        if (length >= quint64(Stripe)) {
            hash = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12)
                 + rotated(lanes[3], 18);
            for (quint64 lane : lanes)
                hash = (hash ^ round(0, lane)) * P1 + P4;
        }
        hash += length;

        const char *bytes = tail;
        int count = held();
        for (; count >= 8; bytes += 8, count -= 8)
            hash = rotated(hash ^ round(0, qFromLittleEndian<quint64>(bytes)), 27) * P1 + P4;
        if (count >= 4) {
            hash = rotated(hash ^ (qFromLittleEndian<quint32>(bytes) * P1), 23) * P2 + P3;
            bytes += 4;
            count -= 4;
        }
        for (; count > 0; ++bytes, --count)
            hash = rotated(hash ^ (uchar(*bytes) * P5), 11) * P1;

        hash = (hash ^ (hash >> 33)) * P2;
        hash = (hash ^ (hash >> 29)) * P3;
        return hash ^ (hash >> 32);
    }

private:
    enum : int { Stripe = 32 };
    enum : quint64 {
        P1 = 0x9E3779B185EBCA87,
        P2 = 0xC2B2AE3D27D4EB4F,
        P3 = 0x165667B19E3779F9,
        P4 = 0x85EBCA77C2B2AE63,
        P5 = 0x27D4EB2F165667C5,
    };

    static quint64 rotated(quint64 word, int bits) { return word << bits | word >> (64 - bits); }

    static quint64 round(quint64 lane, quint64 word) { return rotated(lane + word * P2, 31) * P1; }

    int held() const { return int(length % Stripe); }

    void consume(const char *stripe)
    {
        for (int lane = 0; lane < 4; ++lane)
            lanes[lane] = round(lanes[lane], qFromLittleEndian<quint64>(stripe + 8 * lane));
    }

    quint64 lanes[4] = {quint64(P1) + quint64(P2), P2, 0, 0 - quint64(P1)};
    char tail[Stripe];          // the first held() bytes of a stripe that is not full yet
    quint64 length = 0;
};

struct Receipt
{
    quint8 status = 0;
    quint64 size = 0;
    quint64 digest = 0;
    QString name;
    QString message;
};

// False: no receipt, or not a whole one yet.
bool readReceipt(const QByteArray &answer, Receipt *receipt)
{
    QDataStream in(answer);
    in.setVersion(QDataStream::Qt_4_6);
    quint32 magic = 0;
    in >> magic >> receipt->status >> receipt->size >> receipt->digest >> receipt->name
       >> receipt->message;
    // A file that is stored has a name.
    return magic == ReceiptMagic && in.status() == QDataStream::Ok
        && (receipt->status != 0 || !receipt->name.isNull());
}

} // namespace

// One file on its way. With options it is a list of one file (docs/PROTOCOL.md, 3).
class QDropSender::Transfer : public QObject
{
    Q_DECLARE_TR_FUNCTIONS(QDropSender)

public:
    Transfer(QDropSender *sender, const QString &path, const QString &host, quint16 port,
             const QString &sentName)
        : QObject(sender), owner(sender), file(path),
          name(sentName.isEmpty() ? QFileInfo(path).fileName() : sentName),
          options(sender->options()), idleTimeout(sender->idleTimeout())
    {
        idleTimer.setSingleShot(true);
        connect(&idleTimer, &QTimer::timeout, this, [this] { timedOut(); });
        connect(&drainTimer, &QTimer::timeout, this, [this] { checkDrained(); });
        connect(&socket, &QTcpSocket::connected, this, [this] { connected(); });
        connect(&socket, &QTcpSocket::bytesWritten, this, [this] { written(); });
        // At once, not at the end: a write error empties the socket's read buffer, and a refusal
        // may have come before it.
        connect(&socket, &QTcpSocket::readyRead, this, [this] { receive(socket.readAll()); });
        connect(&socket, &QTcpSocket::disconnected, this, [this] { connectionClosed(); });
        connect(&socket, &QTcpSocket::errorOccurred, this,
                [this](QAbstractSocket::SocketError error) {
            if (error != QAbstractSocket::RemoteHostClosedError)
                socketError = socket.errorString();
            // Once connected, every error ends in disconnected().
            if (step == Connecting)
                connectionClosed();
        });
        // Later, so that no signal comes before send() has returned.
        later([this, host, port] { start(host, port); });
    }

    ~Transfer() override { stop(); }

    void stop()
    {
        step = Over;
        // abort() says that it disconnected, which is no news here.
        socket.disconnect(this);
        socket.abort();
        idleTimer.stop();
        drainTimer.stop();
        file.close();
#ifndef Q_OS_WIN
        if (readable)
            readable->setEnabled(false);
        if (duplicate != -1)
            ::close(duplicate);
        duplicate = -1;
#endif
    }

private:
    enum Step {
        Connecting,
        Asking,         // what there is of the file
        Comparing,      // that with our own
        Pausing,        // so that the header arrives alone
        Sending,
        Waiting,        // for the receipt; everything is written
        Draining,       // the receiver has closed; the system may still have to send
        Over
    };

    // What a receiver may say of the file. The other verdicts answer other questions.
    enum Verdict : quint8 { Send = 0, Have = 1, No = 3 };

    void later(const std::function<void()> &what)
    {
        QTimer::singleShot(0, this, [this, what] {
            if (step != Over)
                what();
        });
    }

    // Ends it. The outcome is told by the event loop, so that a slot may do what it likes.
    void end(const std::function<void(QDropSender *)> &outcome)
    {
        stop();
        QTimer::singleShot(0, this, [this, outcome] {
            QDropSender *const sender = owner;
            if (sender->m_transfer != this)
                return;         // cancelled
            sender->m_transfer = nullptr;
            deleteLater();
            outcome(sender);
        });
    }

    void fail(const QString &why)
    {
        end([why](QDropSender *sender) { Q_EMIT sender->failed(why); });
    }

    void start(const QString &host, quint16 port)
    {
        // Not buffered: the blocks are large, and the socket has a buffer.
        if (!file.open(QIODevice::ReadOnly | QIODevice::Unbuffered))
            return fail(tr("%1: %2").arg(file.fileName(), file.errorString()));
        if (file.isSequential())
            return fail(tr("%1 is not a regular file").arg(file.fileName()));
        size = left = file.size();
        idleTimer.start(idleTimeout);
        socket.connectToHost(host, port);
    }

    void connected()
    {
        QByteArray header;
        QDataStream out(&header, QIODevice::WriteOnly);
        out.setVersion(QDataStream::Qt_4_6);
        if (options) {
            const QDateTime modified = file.fileTime(QFileDevice::FileModificationTime);
            QByteArray entry;
            QDataStream one(&entry, QIODevice::WriteOnly);
            one.setVersion(QDataStream::Qt_4_6);
            one << quint64(size) << modified.toMSecsSinceEpoch() << name;
            out.writeRawData("\xFFQDROP\0\2", 8);
            out << quint32(options) << quint32(entry.size()) << quint32(1);
            header += entry;
            step = Asking;
        } else {
            out << qint64(0) << qint64(0) << name;
            out.device()->seek(0);
            out << qint64(header.size() + size) << qint64(header.size() - 2 * sizeof(qint64));
            step = Pausing;
            QTimer::singleShot(size > 0 ? HeaderPause : 0, this, [this] {
                if (step != Pausing)
                    return;
                step = Sending;
                written();
            });
        }
        idleTimer.start(idleTimeout);
        socket.write(header);
    }

    // --- The question about what there is.

    void answered(quint64 receiverHas, quint64 receiversDigest)
    {
        have = receiverHas;
        haveDigest = receiversDigest;
        step = Comparing;
        idleTimer.stop();
        left = qint64(have);
        later([this] { compare(); });
    }

    void compare()
    {
        if (left > 0) {
            const qint64 count = readBlock(qMin(left, CompareBlock));
            if (count > 0)
                later([this] { compare(); });
            return;
        }
        qint64 from = 0;
        if (digest.digest() == haveDigest) {
            from = qint64(have);
        } else {
            // What the receiver has is of another file.
            digest = Xxh64();
            if (!file.seek(0))
                return fail(tr("%1: %2").arg(file.fileName(), file.errorString()));
        }
        left = size - from;
        startOffset = sent = from;
        step = Sending;
        idleTimer.start(idleTimeout);
        uchar start[8];
        qToBigEndian(quint64(from), start);
        socket.write(reinterpret_cast<const char *>(start), sizeof start);
        writeMore();
    }

    // --- The body.

    // Reads and digests so much of the file; 0: it has failed.
    qint64 readBlock(qint64 most)
    {
        block.resize(int(most));
        const qint64 count = file.read(block.data(), most);
        if (count <= 0) {
            fail(tr("%1 became shorter or unreadable").arg(file.fileName()));
            return 0;
        }
        digest.update(block.constData(), count);
        left -= count;
        return count;
    }

    void writeMore()
    {
        while (left > 0 && socket.bytesToWrite() < MaxBuffered) {
            const qint64 count = readBlock(qMin(left, Block));
            // A socket that takes nothing has broken, and says so itself.
            if (count == 0 || socket.write(block.constData(), count) != count)
                return;
        }
        if (options && left == 0 && !isSealed) {
            isSealed = true;
            uchar seal[9] = {0};    // the bytes are the file
            qToBigEndian(digest.digest(), seal + 1);
            socket.write(reinterpret_cast<const char *>(seal), sizeof seal);
        }
    }

    void written()
    {
        if (step != Sending)
            return;
        idleTimer.start(idleTimeout);
        writeMore();
        if (step != Sending)
            return;
        const bool all = left == 0 && socket.bytesToWrite() == 0;
        if (all) {
            step = Waiting;
            idleTimer.start(int(qMin<qint64>(idleTimeout + size / SlowDisk, 0x7FFFFFFF)));
            if (!options)
                finishSending();
        }
        // The header, or the seal, may be in the buffer as well.
        sent = qMax(startOffset, size - left - socket.bytesToWrite());
        Q_EMIT owner->progress(sent, size);
        // The receipt may have come already, if only that of a receiver that does not count well.
        if (all && step == Waiting)
            checkReceipt();
    }

    // The receiver answers when it has seen the end of our stream, but close() would give up
    // reading as well, and QTcpSocket has no call that ends only the writing. Everything is
    // written here: this goes past QTcpSocket, and what it still held could not be sent any more.
    void finishSending()
    {
        // Where there is no descriptor, as with a proxy, qdropd closes by itself after 0.3 s.
        if (socket.socketDescriptor() == -1)
            return;
#ifdef Q_OS_WIN
        ::shutdown(SOCKET(socket.socketDescriptor()), SD_SEND);
#else
        // QTcpSocket takes a reset for a close, and what was reset must not count as sent. So the
        // rest is read without it, from a second descriptor; without one, it must do.
        const int descriptor = int(socket.socketDescriptor());
        duplicate = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        ::shutdown(descriptor, SHUT_WR);
        if (duplicate == -1)
            return;
        answer += socket.readAll();
        socket.disconnect(this);
        socket.abort();
        readable = new QSocketNotifier(duplicate, QSocketNotifier::Read, this);
        connect(readable, &QSocketNotifier::activated, this, [this] {
            if (step == Waiting)
                readDuplicate();
        });
#endif
    }

#ifndef Q_OS_WIN
    void readDuplicate()
    {
        char bytes[4096];
        const ssize_t count = ::recv(duplicate, bytes, sizeof bytes, 0);
        if (count > 0)
            return receive(QByteArray(bytes, int(count)));
        if (count < 0 && (errno == EINTR || errno == EAGAIN))
            return;
        if (count < 0)
            socketError = qt_error_string(errno);
        readable->setEnabled(false);
        connectionClosed();
    }
#endif

    // --- The answer and the receipt.

    void receive(const QByteArray &bytes)
    {
        if (step == Over)
            return;
        answer += bytes;
        if (answer.size() > 2 * MaxAnswer)
            return fail(tr("the receiver answers without end"));
        if (step == Asking)
            readAnswer();
        if (step != Over)
            checkReceipt();
    }

    void readAnswer()
    {
        QDataStream in(answer);
        in.setVersion(QDataStream::Qt_4_6);
        quint32 magic = 0, count = 0;
        quint8 verdict = Send, status = 0;
        quint64 receiverHas = 0, receiversDigest = digest.digest();
        QString message;
        in >> magic;
        if (in.status() != QDataStream::Ok || magic == ReceiptMagic)
            return;
        if (magic != AnswerMagic)
            return fail(tr("the receiver does not know how to resume or to set the time"));
        in >> count >> verdict;
        if (verdict == Have)
            in >> receiverHas >> receiversDigest;
        else if (verdict == No)
            in >> status >> message;
        if (in.status() != QDataStream::Ok)
            return;
        // Nothing else was asked. Of an empty file all is there with 0 bytes.
        const bool isHave = verdict == Have && receiverHas <= quint64(size)
            && (receiverHas > 0 || size == 0);
        const bool isNo = verdict == No && status != 0;
        if (count != 1 || !(verdict == Send || isHave || isNo))
            return fail(tr("the receiver answers what was not asked"));
        if (isNo)
            return end([status, message](QDropSender *sender) {
                Q_EMIT sender->refused(status, message);
            });
        answer.remove(0, int(in.device()->pos()));
        answered(receiverHas, receiversDigest);
    }

    // Looks at what has come, if it is a receipt.
    void checkReceipt()
    {
        Receipt receipt;
        if (!readReceipt(answer, &receipt))
            return;
        if (receipt.status != 0)
            return end([receipt](QDropSender *sender) {
                Q_EMIT sender->refused(receipt.status, receipt.message);
            });
        if (step != Waiting)
            return;             // it cannot know yet
        const quint64 ours = digest.digest();
        if (receipt.size != quint64(size) || receipt.digest != ours)
            return fail(tr("damaged on the way: the receiver has stored %1 bytes, xxh64 %2, "
                           "as %3, but %4 bytes, xxh64 %5, were sent")
                            .arg(QString::number(receipt.size), hex(receipt.digest), receipt.name,
                                 QString::number(size), hex(ours)));
        end([receipt](QDropSender *sender) {
            Q_EMIT sender->stored(receipt.name, receipt.digest);
        });
    }

    static QString hex(quint64 digest)
    {
        return QString::number(digest, 16).rightJustified(16, QLatin1Char('0'));
    }

    // --- The end of the connection.

    void connectionClosed()
    {
        if (step == Over || step == Draining)
            return;
        if (socket.isOpen())
            receive(socket.readAll());
        switch (step) {
        case Connecting:
            return fail(tr("cannot connect: %1").arg(socket.errorString()));
        case Asking:
            return fail(tr("the receiver closed without an answer: it may not know how to resume "
                           "or to set the time"));
        case Comparing:
        case Pausing:
        case Sending:
            return fail(tr("the connection broke after %1 of %2 bytes").arg(sent).arg(size));
        case Waiting:
            if (!socketError.isEmpty())
                return fail(tr("the connection broke before a receipt came: %1").arg(socketError));
            if (options)
                return fail(tr("the receiver closed without a receipt"));
            step = Draining;
            idleTimer.start(idleTimeout);
            drainTimer.start(DrainInterval);
            return checkDrained();
        case Draining:
        case Over:
            return;
        }
    }

    // The end of the receiver's stream may overtake what our own system still has to send, and
    // hide the reset that this meets. But a socket has a peer until all it sent was acknowledged,
    // or was answered with a reset, which is then its error.
    void checkDrained()
    {
#ifndef Q_OS_WIN
        if (duplicate != -1) {
            sockaddr_storage peer;
            socklen_t length = sizeof peer;
            if (::getpeername(duplicate, reinterpret_cast<sockaddr *>(&peer), &length) == 0)
                return;
            int error = 0;
            length = sizeof error;
            ::getsockopt(duplicate, SOL_SOCKET, SO_ERROR, &error, &length);
            if (error != 0)
                return fail(tr("the connection broke before a receipt came: %1")
                                .arg(qt_error_string(error)));
        }
#endif
        end([](QDropSender *sender) { Q_EMIT sender->sentUnconfirmed(); });
    }

    void timedOut()
    {
        switch (step) {
        case Connecting:
            return fail(tr("the receiver does not answer"));
        case Asking:
            return fail(tr("the receiver is silent: it does not know how to resume or to set the "
                           "time"));
        case Waiting:
            return fail(tr("the receiver gave no receipt in time, nor did it close"));
        default:
            return fail(tr("the receiver took nothing for too long"));
        }
    }

    QDropSender *const owner;
    QTcpSocket socket;
    QTimer idleTimer;
    QTimer drainTimer;
    QFile file;
    const QString name;
    const Options options;
    const int idleTimeout;
    Step step = Connecting;
    qint64 size = 0;            // of the file when it was opened: what is added later is not sent
    qint64 left = 0;            // not yet read
    qint64 startOffset = 0;     // from where it was sent
    qint64 sent = 0;            // gone from the socket's buffer, or there before
    quint64 have = 0;           // what the receiver says that it has
    quint64 haveDigest = 0;
    Xxh64 digest;
    bool isSealed = false;      // the end of a list's body was written
    QByteArray block;
    QByteArray answer;
    QString socketError;        // an error of the connection
    int duplicate = -1;         // of the socket's descriptor
    QSocketNotifier *readable = nullptr;
};

QDropSender::QDropSender(QObject *parent) : QObject(parent) {}

QDropSender::~QDropSender() = default;

bool QDropSender::send(const QString &path, const QString &host, quint16 port, const QString &name)
{
    if (m_transfer)
        return false;
    m_transfer = new Transfer(this, path, host, port, name);
    return true;
}

void QDropSender::cancel()
{
    if (!m_transfer)
        return;
    m_transfer->stop();
    // Later: this may be a slot of progress().
    m_transfer->deleteLater();
    m_transfer = nullptr;
}
