// SPDX-License-Identifier: MIT OR Apache-2.0
// Copyright (c) 2026 The qdrop authors

// 把文件发给 qdropd，或任何使用经典 Qt 传输协议的接收程序，并报告结果。支持 Qt 5.15 和 Qt 6：
// 把本文件和 qdropsender.cpp 复制到使用 QtNetwork 的项目里即可（Windows 上还要加
// LIBS += -lws2_32）。示例见 docs/INTEROP.zh-CN.md。
//
// Sends a file to qdropd, or to any receiver of the classic Qt transfer, and reports the outcome.
// For Qt 5.15 and Qt 6: copy this file and qdropsender.cpp into a program with QtNetwork (on
// Windows it also needs LIBS += -lws2_32). docs/INTEROP.md has an example.
#pragma once

#include <QFlags>
#include <QObject>
#include <QString>

class QDropSender : public QObject
{
    Q_OBJECT

public:
    // Only qdropd understands these: a classic receiver stays silent, and the transfer fails.
    enum Option {
        Resume = 1,         // resume an interrupted transfer of this file
        PreserveTime = 2,   // the stored file gets this one's modification time
    };
    Q_DECLARE_FLAGS(Options, Option)

    explicit QDropSender(QObject *parent = nullptr);
    ~QDropSender() override;

    Options options() const { return m_options; }
    void setOptions(Options options) { m_options = options; }

    // How long the receiver may be silent, in milliseconds. The wait for the receipt is longer by
    // the time that a slow disk needs.
    int idleTimeout() const { return m_idleTimeout; }
    void setIdleTimeout(int milliseconds) { m_idleTimeout = milliseconds; }

    bool isSending() const { return m_transfer != nullptr; }

public Q_SLOTS:
    // Returns at once; one of the last four signals tells the outcome. Returns false, and there is
    // no signal, while another file is being sent. Without a name the file keeps its own.
    bool send(const QString &path, const QString &host, quint16 port,
              const QString &name = QString());

    // Ends it without a signal. With Resume, the receiver keeps what it has.
    void cancel();

Q_SIGNALS:
    // Bytes of the file. With Resume, those that the receiver has already count as sent. A slot may
    // call cancel(), but not delete the sender.
    void progress(qint64 sent, qint64 total);

    // The receiver has a file of this name with exactly the bytes that were sent: their XXH64 is
    // in its receipt. In the slots of these four, send() may be called again, and the sender may be
    // deleted.
    void stored(const QString &name, quint64 digest);

    // The receiver took every byte, and gives no receipt.
    void sentUnconfirmed();

    // The receiver does not want the file, and says why. Another try may help after 4, 5, 7, 8
    // and 10 (docs/PROTOCOL.md, 2).
    void refused(int status, const QString &message);

    // The file cannot be read, the receiver cannot be reached, or the connection broke.
    void failed(const QString &why);

private:
    class Transfer;
    friend class Transfer;

    Transfer *m_transfer = nullptr;
    Options m_options;
    int m_idleTimeout = 60000;
};

Q_DECLARE_OPERATORS_FOR_FLAGS(QDropSender::Options)
