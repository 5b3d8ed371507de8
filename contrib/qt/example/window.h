// SPDX-License-Identifier: MIT OR Apache-2.0
// Copyright (c) 2026 The qdrop authors

// The window of the tutorial's client: a host, a port, a bar, Open, Send and Cancel.
#pragma once

#include <QWidget>

class QDropSender;
class QLabel;
class QLineEdit;
class QProgressBar;
class QPushButton;
class QSpinBox;

class Window : public QWidget
{
    Q_OBJECT

public:
    explicit Window(QWidget *parent = nullptr);

    // What a test operates instead of a person.
    void fill(const QString &host, int port, const QString &path);
    void pressSend();
    void pressCancel();

Q_SIGNALS:
    void finished(bool isStored);

private:
    void openFile();
    void choose(const QString &path);
    void send();
    void cancel();
    void showProgress(qint64 sent, qint64 total);
    void finish(bool isStored, const QString &text);

    QDropSender *const sender;
    QLineEdit *const host;
    QSpinBox *const port;
    QProgressBar *const bar;
    QLabel *const status;
    QPushButton *const openButton;
    QPushButton *const sendButton;
    QPushButton *const cancelButton;
    QString path;
};
