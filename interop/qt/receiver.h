// The tutorial's receiver without its window. It never writes to the sender.
//
// Its faults are the deployed ones and stay: the name is used as it came, a file
// that cannot be opened is received all the same, a cut file stays where it is,
// and a byte after the body is never forgiven.
#pragma once

#include <QCoreApplication>
#include <QDataStream>
#include <QFile>
#include <QTcpSocket>
#include <QTextStream>

class Receiver : public QObject
{
public:
    explicit Receiver(const QString &dir) : directory(dir) {}

protected:
    // Either side has closed.
    virtual void disconnected() = 0;

    void setConnection(QTcpSocket *socket)
    {
        connection = socket;
        connect(connection, &QTcpSocket::readyRead, this, &Receiver::receive);
        connect(connection, &QTcpSocket::disconnected, this, [this] { disconnected(); });
    }

    bool isComplete() const { return bytesReceived > fixedSize && bytesReceived == totalBytes; }

    // Makes ready for the next transfer, and returns what is to be said of this one.
    QString endTransfer()
    {
        const qint64 bodySize =
            bytesReceived > fixedSize ? bytesReceived - fixedSize - fileNameSize : 0;
        const QString report = QString(isComplete() ? "received " : "cut ") + fileName + ' '
            + QString::number(bodySize) + '\n';
        connection->deleteLater();
        localFile.close();
        totalBytes = bytesReceived = fileNameSize = 0;
        fileName.clear();
        return report;
    }

    // Reads what there is of the header. False: some of it is missing.
    virtual bool readHeader()
    {
        if (fileNameSize == 0)
            readSizes();
        return readName();
    }

    void readSizes()
    {
        if (connection->bytesAvailable() < fixedSize)
            return;
        QDataStream in(connection);
        in.setVersion(QDataStream::Qt_4_6);
        in >> totalBytes >> fileNameSize;
        bytesReceived += fixedSize;
    }

    bool readName()
    {
        if (fileNameSize == 0 || connection->bytesAvailable() < fileNameSize)
            return false;
        QDataStream in(connection);
        in.setVersion(QDataStream::Qt_4_6);
        in >> fileName;
        bytesReceived += fileNameSize;
        // In Qt 5 the locale decides how the name is encoded on the disk: LC_ALL=C.UTF-8.
        localFile.setFileName(directory + '/' + fileName);
        if (!localFile.open(QFile::WriteOnly))
            QTextStream(stderr) << QCoreApplication::applicationName() << ": "
                                << localFile.fileName() << ": " << localFile.errorString() << '\n';
        return true;
    }

    QTcpSocket *connection = nullptr;
    qint64 fileNameSize = 0;    // 0: the sizes have not come

private:
    void receive()
    {
        if (bytesReceived <= fixedSize && !readHeader())
            return;
        if (bytesReceived < totalBytes) {
            const QByteArray inBlock = connection->readAll();
            bytesReceived += inBlock.size();
            if (localFile.isOpen())
                localFile.write(inBlock);
        }
        if (bytesReceived == totalBytes)
            connection->close();            // calls disconnected()
    }

    static constexpr qint64 fixedSize = 2 * sizeof(qint64);

    QString directory;
    QFile localFile;
    QString fileName;
    qint64 totalBytes = 0;
    qint64 bytesReceived = 0;
};
