"""Signals that stop training."""

import os
import signal
import threading

import pytest

from lstm_jax.training.signals import on_signals

STRICT = False


def test_an_ignored_signal_stays_ignored():
    """SIGHUP is ignored under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not received
            os.kill(os.getpid(), signal.SIGTERM)
            assert received.name == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_sigint_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with on_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_handler_is_installed_outside_of_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def use():
        with on_signals() as received:
            handlers.append(signal.getsignal(signal.SIGTERM))
            assert not received

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert handlers == [before]
