import json

import pytest

from labkit.bench import cpu, iperf
from labkit.bench.changes import clock_offset
from labkit.bench.scale import process_ticks
from labkit.errors import MeasurementError

BEFORE = "cpu  100 0 50 1000 10 0 5 20 0 0\ncpu0 50 0 25 500 5 0 2 10 0 0\ncpu1 50 0 25 500 5 0 3 10 0 0\nintr 1"
AFTER = "cpu  200 0 100 1130 20 0 15 20 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0"


def test_a_slow_question_sets_no_clock_wrong():
    assert clock_offset(100.0, 101.8, 102.0) == 0, "it says a time within: a process that took long to start"
    assert clock_offset(100.0, 110.0, 102.0) == pytest.approx(9.0)
    assert clock_offset(100.0, 90.0, 102.0) == pytest.approx(-11.0)


def test_cpu_tells_busy_from_idle_and_steal():
    usage = cpu.between(cpu.parse(BEFORE), cpu.parse(AFTER))
    assert usage.busy == pytest.approx(1.6)
    assert (usage.idle, usage.iowait) == (pytest.approx(1.3), pytest.approx(0.1))
    assert (usage.cpus, usage.steal) == (2, 0)
    assert usage.seconds == pytest.approx(1.5)
    assert usage.percent == pytest.approx(100 * 1.6 / 3.0)


def test_not_proc_stat_is_a_measurement_error():
    with pytest.raises(MeasurementError, match="/proc/stat"):
        cpu.parse("sh: not found")


def test_iperf_counts_at_the_receiver():
    end = {"sum_sent": {"bytes": 2000, "bits_per_second": 16000, "retransmits": 3},
           "sum_received": {"bytes": 1000, "bits_per_second": 8000, "seconds": 1.0, "lost_percent": 50.0}}
    found = iperf.parse(json.dumps({"end": end}))
    assert (found.bits_per_second, found.retransmits, found.lost_percent) == (8000, 3, 50.0)


@pytest.mark.parametrize(("text", "said"), [
    ("iperf3: command not found", "did not answer with JSON"),
    ('{"error": "unable to connect to server"}', "could not measure"),
    ('{"end": {}}', "no bytes"),
])
def test_iperf_failures_are_measurement_errors(text, said):
    with pytest.raises(MeasurementError, match=said):
        iperf.parse(text)


def test_udp_packets_fit_the_tunnel():
    assert iperf.command("10.0.0.1", "udp", 2)[-4:] == ["-l", "1400", "-b", "0"]


def test_ticks_count_children_that_have_ended():
    line = "7 (kube proxy) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 5 3 20 0 4 0 100 0 0"
    assert process_ticks(f"{line}\n{line}\n") == 100
