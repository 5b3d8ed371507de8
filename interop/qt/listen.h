// What the programs that listen have in common.
#pragma once

#include <QCoreApplication>
#include <QTcpServer>
#include <QTextStream>

// Port 0 takes a free one. False: it has said why not.
inline bool listenLocally(QTcpServer *server, quint16 port)
{
    if (server->listen(QHostAddress::LocalHost, port))
        return true;
    QTextStream(stderr) << QCoreApplication::applicationName() << ": 127.0.0.1:" << port << ": "
                        << server->errorString() << '\n';
    return false;
}

inline void printListening(const QTcpServer &server)
{
    QTextStream(stdout) << "listening on 127.0.0.1:" << server.serverPort() << '\n';
}
