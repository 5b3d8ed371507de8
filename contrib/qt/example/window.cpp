// SPDX-License-Identifier: MIT OR Apache-2.0
// Copyright (c) 2026 The qdrop authors

#include "window.h"

#include "qdropsender.h"

#include <QFileDialog>
#include <QFileInfo>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QLocale>
#include <QProgressBar>
#include <QPushButton>
#include <QSpinBox>
#include <QVBoxLayout>

Window::Window(QWidget *parent)
    : QWidget(parent), sender(new QDropSender(this)), host(new QLineEdit("127.0.0.1")),
      port(new QSpinBox), bar(new QProgressBar), status(new QLabel(tr("Open a file."))),
      openButton(new QPushButton(tr("&Open…"))), sendButton(new QPushButton(tr("&Send"))),
      cancelButton(new QPushButton(tr("&Cancel")))
{
    setWindowTitle(tr("Send a file"));
    port->setRange(1, 65535);
    port->setValue(9999);
    bar->setRange(0, 1000);
    bar->setValue(0);
    // A name comes from outside: it is no markup, and it may be long.
    status->setTextFormat(Qt::PlainText);
    status->setWordWrap(true);
    status->setMinimumHeight(2 * status->fontMetrics().lineSpacing());
    status->setAlignment(Qt::AlignLeft | Qt::AlignTop);
    sendButton->setEnabled(false);
    cancelButton->setEnabled(false);

    auto *const form = new QFormLayout;
    form->addRow(tr("&Host:"), host);
    form->addRow(tr("&Port:"), port);
    auto *const buttons = new QHBoxLayout;
    buttons->addStretch();
    buttons->addWidget(openButton);
    buttons->addWidget(sendButton);
    buttons->addWidget(cancelButton);
    auto *const all = new QVBoxLayout(this);
    all->addLayout(form);
    all->addWidget(bar);
    all->addWidget(status, 1);
    all->addLayout(buttons);
    resize(460, sizeHint().height());

    connect(openButton, &QPushButton::clicked, this, &Window::openFile);
    connect(sendButton, &QPushButton::clicked, this, &Window::send);
    connect(cancelButton, &QPushButton::clicked, this, &Window::cancel);

    connect(sender, &QDropSender::progress, this, &Window::showProgress);
    connect(sender, &QDropSender::stored, this, [this](const QString &name, quint64 digest) {
        finish(true, tr("Stored as %1\nxxh64 %2").arg(name).arg(digest, 16, 16, QChar('0')));
    });
    connect(sender, &QDropSender::sentUnconfirmed, this, [this] {
        finish(false, tr("Sent. The receiver gives no receipt."));
    });
    connect(sender, &QDropSender::refused, this, [this](int number, const QString &message) {
        finish(false, tr("Refused (status %1): %2.").arg(number).arg(message));
    });
    connect(sender, &QDropSender::failed, this, [this](const QString &why) {
        finish(false, tr("Failed: %1.").arg(why));
    });
}

void Window::fill(const QString &newHost, int newPort, const QString &newPath)
{
    host->setText(newHost);
    port->setValue(newPort);
    choose(newPath);
}

void Window::pressSend()
{
    sendButton->click();
}

void Window::pressCancel()
{
    cancelButton->click();
}

void Window::openFile()
{
    const QString chosen = QFileDialog::getOpenFileName(this);
    if (!chosen.isEmpty())
        choose(chosen);
}

void Window::choose(const QString &chosen)
{
    path = chosen;
    bar->setValue(0);
    const QFileInfo info(path);
    status->setText(tr("%1, %2.").arg(info.fileName(), QLocale().formattedDataSize(info.size())));
    sendButton->setEnabled(true);
}

void Window::send()
{
    openButton->setEnabled(false);
    sendButton->setEnabled(false);
    cancelButton->setEnabled(true);
    bar->setValue(0);
    status->setText(tr("Connecting…"));
    sender->send(path, host->text(), quint16(port->value()));
}

void Window::cancel()
{
    // It gives no signal.
    sender->cancel();
    finish(false, tr("Cancelled."));
}

void Window::showProgress(qint64 sent, qint64 total)
{
    // A bar counts in int, and a file may have more bytes than that.
    bar->setValue(total == 0 ? 1000 : int(1000.0 * double(sent) / double(total)));
    const QLocale locale;
    status->setText(sent < total
                        ? tr("%1 of %2…").arg(locale.formattedDataSize(sent),
                                              locale.formattedDataSize(total))
                        : tr("Waiting for the receipt…"));
}

void Window::finish(bool isStored, const QString &text)
{
    status->setText(text);
    openButton->setEnabled(true);
    sendButton->setEnabled(true);
    cancelButton->setEnabled(false);
    Q_EMIT finished(isStored);
}
