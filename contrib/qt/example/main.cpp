// SPDX-License-Identifier: MIT OR Apache-2.0
// Copyright (c) 2026 The qdrop authors

// qdrop-window: a window that sends a file and shows its receipt.
// qdrop-window --send FILE HOST PORT --screenshot PNG: the same for a test. It fills in the
// fields, presses Send, takes a picture of the outcome, and exits with 0 if the file is stored.
// With --cancel in the place of --send it presses Cancel after a second.

#include "window.h"

#include <QApplication>
#include <QPixmap>
#include <QTextStream>
#include <QTimer>

int main(int argc, char *argv[])
{
    QApplication app(argc, argv);
    const QStringList args = app.arguments();
    const bool isTest = args.size() == 7 && (args[1] == "--send" || args[1] == "--cancel")
        && args[5] == "--screenshot";
    if (args.size() != 1 && !isTest) {
        QTextStream(stderr) << "usage: qdrop-window [--send | --cancel FILE HOST PORT --screenshot PNG]\n";
        return 2;
    }

    Window window;
    window.show();
    if (isTest) {
        const QString picture = args[6];
        QObject::connect(&window, &Window::finished, &window, [&window, picture](bool isStored) {
            const bool isTaken = window.grab().save(picture);
            if (!isTaken)
                QTextStream(stderr) << picture << ": cannot be written\n";
            QCoreApplication::exit(isStored && isTaken ? 0 : 1);
        });
        window.fill(args[3], args[4].toInt(), args[2]);
        window.pressSend();
        if (args[1] == "--cancel")
            QTimer::singleShot(1000, &window, &Window::pressCancel);
    }
    return app.exec();
}
