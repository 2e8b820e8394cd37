from worker.pulse import Pulse


def test_silence_grows_from_the_last_beat() -> None:
    now = 100.0
    pulse = Pulse(lambda: now)
    pulse.beat()
    now = 103.5

    assert pulse.silence() == 3.5


def test_a_thread_at_rest_is_never_silent_for_long() -> None:
    now = 100.0
    pulse = Pulse(lambda: now)
    assert pulse.silence() == 0.0
    pulse.beat()
    pulse.rest()
    now = 200.0

    assert pulse.silence() == 0.0
